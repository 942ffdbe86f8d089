"""Files written by torch.save, verified when they are read."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

from harness.core.files import check_archive


def load_verified(path: Path) -> Any:
    """The content of a file that torch.save wrote, in main memory; none of its code runs.

    torch.load ignores the checksums that torch.save writes; a flipped bit would become another
    weight. Files of the format before torch 1.6 have none.

    Raises:
        Exception: the file is missing, damaged, or holds other things than tensors and plain
            values; which exception depends on the damage.
    """
    check_archive(path)
    with warnings.catch_warnings():  # about the pickle's version
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)
