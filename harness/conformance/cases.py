"""Golden cases: each is a function from the arrays of one `NAME.npz` to checks.

Tolerances come with the vectors: 1e-9 in float64 (1e-8 through GeM or batch norm), 2e-6 for float32
distances, and 0 for labels, ranks and counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

EXACT, THROUGH_NORM, DISTANCE = 1e-9, 1e-8, 2e-6


@dataclass(frozen=True)
class Check:
    """The largest absolute error of one quantity, and the tolerance."""

    quantity: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """False for NaN, too."""
        return self.error <= self.tolerance


class Vectors(dict[str, np.ndarray]):
    """The arrays of one file."""

    def __init__(self, path: Path) -> None:
        with np.load(path, allow_pickle=False) as file:
            super().__init__((key, file[key]) for key in file.files)
        self.folder = path.parent

    def tensor(self, key: str) -> Tensor:
        """A copy of one array."""
        return torch.from_numpy(np.array(self[key]))

    def tensors(self, *keys: str) -> tuple[Tensor, ...]:
        return tuple(self.tensor(key) for key in keys)

    def number(self, key: str) -> float:
        return float(self[key])

    def close(self, keys: str, tolerance: float = EXACT, /, **ours: object) -> Iterator[Check]:
        """Compare each value with the array of its name, inserted at the `*` in `keys`."""
        for name, value in ours.items():
            key = keys.replace("*", name)
            yield close(key, value, self[key], tolerance)

    def equal(self, keys: str, **ours: object) -> Iterator[Check]:
        """Compare integers, as `close` does."""
        return self.close(keys, 0.0, **ours)


Case = Callable[[Vectors], Iterator[Check]]
CASES: dict[str, Case] = {}


def case(*names: str) -> Callable[[Case], Case]:
    """Register the checks of `NAME.npz`."""

    def register(function: Case) -> Case:
        CASES.update(dict.fromkeys(names, function))
        return function

    return register


def close(quantity: str, ours: object, theirs: object, tolerance: float = 0.0) -> Check:
    """Compare numbers; NaN equals NaN. Different shapes are an infinite error."""
    a, b = _array(ours), _array(theirs)
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return Check(quantity, float("inf"), tolerance)
    errors = np.abs(a - b)[~np.isnan(a)]
    return Check(quantity, float(errors.max(initial=0.0)), tolerance)


def gradient(loss: Tensor, x: Tensor) -> Tensor:
    """The gradient of a loss with respect to x, with the graph kept for further losses."""
    return torch.autograd.grad(loss, x, retain_graph=True)[0]


def _array(value: object) -> np.ndarray:
    value = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
    return np.asarray(value, dtype=np.float64)
