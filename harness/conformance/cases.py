"""What a golden case is: a function from the arrays of one `NAME.npz` to checks.

Tolerances are those that come with the vectors: 1e-9 in float64 (1e-8 through GeM or batch norm),
2e-6 for float32 distances, nothing at all for labels, ranks and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor


class Vectors(dict[str, np.ndarray]):
    """The arrays of one file, and the folder of its neighbours."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            super().__init__((key, file[key]) for key in file.files)
        self.folder = path.parent

    def neighbour(self, name: str) -> Vectors | None:
        """The arrays of `name.npz` in the same folder, if it is there."""
        path = self.folder / f"{name}.npz"
        return Vectors(path) if path.is_file() else None


@dataclass(frozen=True)
class Check:
    """One quantity of a case: its largest absolute error, and how large it may be."""

    quantity: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """False for NaN, too."""
        return self.error <= self.tolerance


Case = Callable[[Vectors], Iterator[Check]]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    """Register the checks of `NAME.npz`."""

    def register(function: Case) -> Case:
        CASES[name] = function
        return function

    return register


def close(quantity: str, ours: object, theirs: object, tolerance: float) -> Check:
    """Compare numbers; NaN equals NaN. A difference of shape is an infinite error."""
    a, b = _array(ours), _array(theirs)
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return Check(quantity, float("inf"), tolerance)
    errors = np.abs(a - b)[~np.isnan(a)]
    return Check(quantity, float(errors.max(initial=0.0)), tolerance)


def equal(quantity: str, ours: object, theirs: object) -> Check:
    """Compare integers: the error is how many differ."""
    a, b = _array(ours), _array(theirs)
    wrong = float("inf") if a.shape != b.shape else float((a != b).sum())
    return Check(quantity, wrong, 0.0)


def _array(value: object) -> np.ndarray:
    value = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    return np.asarray(value, dtype=np.float64)
