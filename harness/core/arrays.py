"""Arrays in .npz files, read without trust: never unpickled, and damage is one kind of error."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.core.errors import first_line


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz file.

    Raises:
        OSError: the file cannot be opened. ValueError: it is damaged, or no .npz.
    """
    with path.open("rb") as file:
        try:
            content = np.load(file, allow_pickle=False)
            arrays = {key: content[key] for key in content.files}
        except Exception as error:  # whatever numpy, zipfile and zlib raise
            raise ValueError(f"{type(error).__name__}: {first_line(error)}") from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        raise ValueError("a member is no array")
    return arrays


def read_queries(path: Path) -> dict[str, np.ndarray]:
    """Per-query results: arrays (Q,) of numbers.

    Raises:
        OSError: the file cannot be opened. ValueError: it is damaged, or holds something else.
    """
    arrays = read_npz(path)
    shapes = {array.shape for array in arrays.values()}
    numbers = all(array.dtype.kind in "iuf" for array in arrays.values())
    if len(shapes) != 1 or len(shapes.pop()) != 1 or not numbers:
        raise ValueError("it does not hold a number per query in each array")
    return arrays
