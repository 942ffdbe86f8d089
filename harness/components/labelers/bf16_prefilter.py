"""Prefilter of the neighbor search: bf16 products choose candidates, exact distances decide.

CPUs with bf16 units compute products two and a half times as fast as in float32. Rounding a row x_i
(less the mean of all rows) to b_i moves it by a known length e_i = ||x_i − b_i||, so by
Cauchy–Schwarz

    |x_i·x_j − b_i·b_j| ≤ ||x_i|| e_j + e_i ||b_j||.

To this bound the rounding of the result to bf16 and of float32 sums is added. An image farther away
than the k-th candidate by more than twice the bound cannot be among the k nearest. The few images
that remain are measured in float32 as ||x_i − x_j||², which rounds less than products do. Images
whose neighbors the bound does not settle are searched without the prefilter, and if a sample shows
too many of them, so is the whole set. The neighbors are therefore those of float32 products, up to
their rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from harness.components.labelers.tiles import distances_of, empty_heaps, nearest_of, walk
from harness.core.errors import say_once
from harness.core.kernels import in_threads, row_ranges
from harness.core.precision import exact_matmul, has_bf16

#: the prefilter saves time from this number of images and this dimension on
MIN_IMAGES, _MIN_DIM = 4096, 1024
#: images of the sample, the share of them that may have too many candidates: more than 4 k
_SAMPLE, _LOST, _MAX_CANDIDATES = 128, 0.02, 4
#: rows rounded at once; pairs searched at once without the prefilter
_ROWS, _PAIRS = 256, 1 << 22
#: range of the largest squared norm, beyond which exponents of bf16 or float32 do not suffice
_MIN_SQUARE, _MAX_SQUARE = 1e-24, 1e36
#: the largest relative error of rounding to bf16 and to float32
_BF16, _FP32 = 2.0**-8, 2.0**-24
#: the bound is computed at one distance and used at slightly larger ones
_SLACK = 1.05


@dataclass(frozen=True)
class _Rounded:
    """rows: (N, D) bf16, centered. squares: (N,), their squared norms before rounding.
    bounds: (N,), of the error of squared distances without the rounding of their products.
    """

    rows: Tensor
    squares: Tensor
    bounds: Tensor

    def error(self, images: Tensor, distances: Tensor) -> Tensor:
        """Error bound (A,) of squared distances of images (A,), from `distances` (A,) upward."""
        squares = self.squares[images]
        twice_product = torch.maximum(squares + self.squares.max() - distances, distances)
        return _SLACK * (self.bounds[images] + _BF16 * twice_product)


def applies(x: Tensor) -> bool:
    """Whether to prefilter (N, D) float32 rows: enough work, on a CPU with bf16 units."""
    enough = len(x) >= MIN_IMAGES and x.shape[1] >= _MIN_DIM
    return enough and x.device.type == "cpu" and has_bf16(x.device)


def nearest_keys(x: Tensor, k: int, kernels: ModuleType) -> Tensor | None:
    """The k nearest of each image but itself: sorted keys (N, k); None if it is no gain."""
    rounded = _round(x)
    if not _MIN_SQUARE <= float(rounded.squares.max()) <= _MAX_SQUARE:  # or NaN
        return None
    size = _candidates(rounded, k)
    if size is None:
        return None
    heaps = empty_heaps(len(x), size)
    nothing = np.zeros(0, np.int32), torch.empty(0, len(x))
    walk(rounded.rows, rounded.squares.numpy(), heaps, *nothing, kernels)
    heaps.sort(axis=1)

    every = torch.arange(len(x))
    kth, last = (distances_of(torch.from_numpy(heaps[:, place])) for place in (k - 1, size - 1))
    limits = kth + rounded.error(every, kth) * 2
    safe = last - rounded.error(every, last)
    unsettled, broken = np.zeros((2, len(x)), dtype=np.bool_)
    errors = rounded.error(every, torch.zeros(len(x)))
    bounds = (limits.numpy(), safe.numpy(), errors.numpy())
    fixed = (x.detach().numpy(), heaps, k, *bounds, unsettled, broken)
    in_threads(kernels.measure, [(*fixed, *p) for p in row_ranges(len(x))])
    if broken.any():
        say_once("bf16 products are inaccurate on this CPU: the neighbor search does without them")
        return None
    heaps.sort(axis=1)
    keys = torch.from_numpy(heaps)[:, :k]
    for images in torch.from_numpy(unsettled.nonzero()[0]).split(max(1, _PAIRS // len(x))):
        keys[images] = nearest_of(x, images, k + 1)[:, 1:]
    return keys


def _round(x: Tensor) -> _Rounded:
    """Round rows less their mean: distances stay, and the rounding error shrinks."""
    center = x.mean(dim=0)
    rows = torch.empty(x.shape, dtype=torch.bfloat16)
    squares, moved = torch.empty(len(x)), torch.empty(len(x))
    for start in range(0, len(x), _ROWS):
        part = slice(start, start + _ROWS)
        centered = x[part] - center
        rows[part] = centered
        squares[part] = centered.square().sum(dim=1)
        moved[part] = (centered - rows[part]).norm(dim=1)
    norms = squares.sqrt()
    largest = norms.max() + moved.max()  # no row is longer, before or after
    sums = 2 * (x.shape[1] + 12) * _FP32 * largest.square()
    return _Rounded(rows, squares, 2 * (norms * moved.max() + moved * largest) + sums)


def _candidates(rounded: _Rounded, k: int) -> int | None:
    """How many candidates to keep per image, from a sample; None if too many."""
    n = len(rounded.rows)
    most = min(_MAX_CANDIDATES * k, n - 1)
    sample = torch.linspace(0, n - 1, min(_SAMPLE, n)).long()
    with exact_matmul(rounded.rows.device):
        products = (rounded.rows[sample] @ rounded.rows.T).float()
    distances = rounded.squares[sample][:, None] + rounded.squares - 2 * products
    distances[torch.arange(len(sample)), sample] = torch.inf
    kth = distances.kthvalue(k, dim=1).values
    found = (distances <= (kth + 2 * rounded.error(sample, kth))[:, None]).sum(dim=1)
    if (found >= most).float().mean() > _LOST:
        return None
    return min(max(k, int(found.max() * 1.1) + 2), most)
