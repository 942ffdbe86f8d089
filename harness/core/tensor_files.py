"""Files written by torch.save, verified when they are read."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.core.files import check_archive

#: harmless classes in other repositories' checkpoints: metrics as numpy scalars, and settings
HARMLESS: list[Any] = [
    np.dtype, np.ndarray, argparse.Namespace,
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    *{type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"},
]  # fmt: skip


def load_verified(path: Path) -> Any:
    """The content of a file that torch.save wrote, in main memory; none of its code runs.

    torch.load ignores the checksums that torch.save writes; a flipped bit would become another
    weight. Files of the format before torch 1.6 have none.

    Raises:
        Exception: the file is missing, damaged, or holds other things than tensors, plain
            values and numpy scalars; which exception depends on the damage.
    """
    check_archive(path)
    with warnings.catch_warnings():  # about the pickle's version
        warnings.simplefilter("ignore")
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
