"""Features as unit rows: checked, converted to float32, and L2-normalized per view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import DataError, HarnessError

_BLOCK = 1 << 20  # elements that are converted to float64 at once
_UNIT = 1e-3  # largest deviation of a norm from 1; rounding to float16 stays below
_ZERO = 1e-12


@dataclass(frozen=True)
class Features:
    """Unit rows (N, V, D) float32, each view contiguous, and a note if rows were normalized."""

    values: Tensor
    note: str = ""

    @property
    def mib(self) -> float:
        """Size in MiB."""
        return round(self.values.numel() * self.values.element_size() / 2**20, 1)


def feature_shape(array: Any, where: str = "features") -> tuple[int, int, int]:
    """N, V and D of an array (N, D) or (N, V, D) of floats.

    Raises:
        DataError: another shape or dtype, or an empty array.
    """
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise DataError(
            f"{where} is {array.dtype}; features are float16, float32 or float64.",
            "Is it the right array? If so: features.astype('float32').",
        )
    if array.ndim not in (2, 3):
        raise DataError(
            f"{where} has shape {array.shape}; features are (N, D) or (N, V, D).",
            "One row per image; the views of an image are along the second axis.",
        )
    if 0 in array.shape:
        raise DataError(
            f"{where} is empty: its shape is {array.shape}.",
            "Were any images found when it was made?",
        )
    n, *views, d = array.shape
    return n, views[0] if views else 1, d


def unit_features(array: np.ndarray, where: str = "features", views: int | None = None) -> Features:
    """Check features and L2-normalize their rows where needed.

    The array itself is never changed. It is not copied either if it is float32, in C order, of one
    view and normalized.

    Args:
        array: (N, D) or (N, V, D) floats; may be memory-mapped. where: its name in messages.
        views: how many of the views are used; default: all.

    Raises:
        DataError: wrong shape or dtype, values that are not finite, or rows of zeros.
        HarnessError: the features do not fit into memory.
    """
    n, v, d = feature_shape(array, where)
    used = v if views is None else views
    source = array.reshape(n, v, d)[:, :used].transpose(1, 0, 2)
    shared = source.dtype == np.float32 and source.flags.c_contiguous and source.flags.writeable
    if shared:
        values = torch.from_numpy(source)
    else:
        values = _empty(where, used, n, d)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes Inf, refused below
            values.numpy()[...] = source
    rows = values.view(-1, d)
    step = max(1, _BLOCK // d)
    # float64: squares of large float32 numbers overflow. One buffer: freed ones fragment memory.
    scratch = torch.empty(min(step, len(rows)), d, dtype=torch.float64)
    norms = torch.empty(len(rows), dtype=torch.float64)
    for part, norm in zip(rows.split(step), norms.split(step), strict=True):
        torch.linalg.vector_norm(scratch[: len(part)].copy_(part), dim=1, out=norm)
    _refuse(~norms.isfinite(), "not finite (NaN or Inf)", where, n, used)
    _refuse(norms < _ZERO, "zero", where, n, used)
    if bool(((norms - 1).abs() <= _UNIT).all()):
        return Features(values.transpose(0, 1))
    if shared:
        values = _empty(where, used, n, d).copy_(values)
        rows = values.view(-1, d)
    for part, norm in zip(rows.split(step), norms.split(step), strict=True):
        part.copy_(scratch[: len(part)].copy_(part).div_(norm[:, None]))
    low, high = norms.aminmax()
    rows_of = "every row of each view" if used > 1 else "every row"
    note = f"{where} was not L2-normalized (norms {low:.3g} to {high:.3g}): {rows_of} was divided "
    return Features(values.transpose(0, 1), f"{note}by its norm.")


def _empty(where: str, *shape: int) -> Tensor:
    try:
        return torch.empty(*shape)
    except RuntimeError as error:
        raise HarnessError(
            f"{where} does not fit into memory: {np.prod(shape) * 4 / 2**30:.1f} GiB as float32.",
            "Use a machine with more memory, fewer images or fewer dimensions.",
        ) from error


def _refuse(bad: Tensor, what: str, where: str, n: int, views: int) -> None:
    if count := int(bad.sum()):
        first = int(bad.nonzero()[0])
        view = f" of view {first // n}" if views > 1 else ""
        raise DataError(
            f"{count} of {len(bad)} rows in {where} are {what}, the first is row "
            f"{first % n}{view}.",
            "Leave these images out, or check the network that made the features.",
        )
