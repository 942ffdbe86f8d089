"""Features that somebody brings: read into float32 once, checked, and L2-normalised per view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import DataError, HarnessError
from harness.experiment.standalone.arrays import ArrayFile, Header

_ROWS = 1 << 20  # elements looked at at a time, in float64
_UNIT = 1e-3  # how far a norm may be off 1: rounding to float16 stays below
_ZERO = 1e-12


@dataclass(frozen=True)
class Features:
    """Unit rows, and what was done to them.

    values: (N, V, D) float32, each view contiguous, so that taking one out copies nothing.
    note: a line for people if rows had to be normalised, else empty.
    """

    values: Tensor
    note: str = ""

    @property
    def mib(self) -> float:
        """Their size in MiB."""
        return round(self.values.numel() * self.values.element_size() / 2**20, 1)


def feature_shape(header: Header) -> tuple[int, int, int]:
    """N, V and D of an array (N, D) or (N, V, D) of floats.

    Raises:
        DataError: another shape or dtype, or nothing in it.
    """
    if header.dtype.kind != "f" or header.dtype.itemsize > 8:
        raise DataError(
            f"{header.where} is {header.dtype}; features are float16, float32 or float64.",
            "Is it the right array? If so: features.astype('float32').",
        )
    if len(header.shape) not in (2, 3):
        raise DataError(
            f"{header.where} has shape {header.shape}; features are (N, D) or (N, V, D).",
            "One row an image; several views of an image stand along the second axis.",
        )
    if 0 in header.shape:
        raise DataError(
            f"{header.where} is empty: its shape is {header.shape}.",
            "Were any images found when it was made?",
        )
    n, *views, d = header.shape
    return n, views[0] if views else 1, d


def read_features(file: ArrayFile, name: str = "features", views: int | None = None) -> Features:
    """Read features.

    Args:
        file, name: where they are, (N, D) or (N, V, D).
        views: how many of the views are wanted; all if left out.

    Raises:
        DataError: a shape or dtype that features cannot have, values that are not finite, rows of
            zeros; says which.
        HarnessError: they do not fit into memory.
    """
    header = file.header(name)
    n, v, d = feature_shape(header)
    views = v if views is None else views
    try:
        values = torch.empty(views, n, d)
    except RuntimeError as error:
        raise HarnessError(
            f"{header.where} does not fit into memory: {views * n * d * 4 / 2**30:.1f} GiB as "
            "float32.",
            "Use a machine with more memory, fewer images or fewer dimensions.",
        ) from error
    rows = values.numpy()
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes Inf, which is refused below
        for where, piece in file.pieces(name):
            piece = piece.reshape(len(piece), v, piece.shape[-1])[:, :views].transpose(1, 0, 2)
            if header.fortran:
                rows[:, :, where] = piece
            else:
                rows[:, where] = piece
    return Features(values.transpose(0, 1), _make_unit(values, header))


def _make_unit(values: Tensor, header: Header) -> str:
    """Normalise the rows of (V, N, D) in place if they need it; says so if they did."""
    views, n, d = values.shape
    rows = values.view(-1, d)
    step = max(1, _ROWS // d)
    # In float64, as squares of large float32 numbers are beyond float32; and in one buffer, as
    # freed ones of this size leave holes that memory grows by.
    scratch = torch.empty(min(step, len(rows)), d, dtype=torch.float64)
    norms = torch.empty(len(rows), dtype=torch.float64)
    for part, norm in zip(rows.split(step), norms.split(step), strict=True):
        torch.linalg.vector_norm(scratch[: len(part)].copy_(part), dim=1, out=norm)
    _refuse(~norms.isfinite(), "not finite (NaN or Inf)", header, n, views)
    _refuse(norms < _ZERO, "zero", header, n, views)
    if bool(((norms - 1).abs() <= _UNIT).all()):
        return ""
    for part, norm in zip(rows.split(step), norms.split(step), strict=True):
        part.copy_(scratch[: len(part)].copy_(part).div_(norm[:, None]))
    low, high = norms.aminmax()
    return (
        f"{header.where} was not L2-normalised (norms {low:.3g} to {high:.3g}): every row"
        f"{' of each view' if views > 1 else ''} was divided by its norm."
    )


def _refuse(bad: Tensor, what: str, header: Header, n: int, views: int) -> None:
    if count := int(bad.sum()):
        first = int(bad.nonzero()[0])
        view = f" of view {first // n}" if views > 1 else ""
        raise DataError(
            f"{count} of {len(bad)} rows in {header.where} are {what}, the first is row "
            f"{first % n}{view}.",
            "Leave these images out, or look at the network that made them.",
        )
