"""Half-precision products choose candidates; exact distances choose the neighbours among them.

Processors with units for bf16 form products two and a half times as fast as in float32. Rounding a
row x_i (less the mean of all) to b_i moves it by a length e_i = ||x_i − b_i|| that is known, so by
Cauchy and Schwarz

    |x_i·x_j − b_i·b_j| ≤ ||x_i|| e_j + e_i ||b_j||,

to which come the rounding of the result to bf16 and that of float32 sums. An image that is farther
than the k-th candidate by more than twice this bound cannot be among the k nearest. What is left, a
few images more than k, is measured in float32 as ||x_i − x_j||², which rounds less than products
do. An image whose neighbours the bound does not settle is searched as without a sieve, and features
of which a sample shows too many such images are not sieved at all. So the neighbours are the same,
as far as float32 products can tell, and where they cannot, more often the right ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from harness.components.labelers.packed_keys import distances_of, nearest_of
from harness.components.labelers.tiles import empty_heaps, walk
from harness.core.errors import say_once
from harness.core.kernels import in_threads, row_ranges
from harness.core.precision import exact_matmul, has_bf16

#: below so many images, or dimensions, a sieve saves nothing
WORTH_SIEVING, _WORTH_WIDTH = 4096, 1024
#: images of the sample, the share of them that may find too many candidates, and how many that is
_SAMPLE, _LOST, _MOST = 128, 0.02, 4
#: rows that are rounded together; pairs that are searched together without a sieve
_ROWS, _PAIRS = 256, 1 << 22
#: largest squared norms outside of these: bf16 or float32 would run out of exponents
_LEAST, _GREATEST = 1e-24, 1e36
#: the largest relative error of rounding to bf16, and to float32
_BF16, _FP32 = 2.0**-8, 2.0**-24
#: the error is bounded at one distance and used at distances that are a little larger
_SLACK = 1.05


@dataclass(frozen=True)
class _Rounded:
    """rows: (N, D) bf16, centred. squares: (N,), their squared norms before they were rounded.

    bounds: (N,), of the error of squared distances, leaving out the rounding of their products.
    """

    rows: Tensor
    squares: Tensor
    bounds: Tensor

    def error(self, images: Tensor, distances: Tensor) -> Tensor:
        """Bound (A,) of the error of squared distances of images (A,) at and above (A,) values."""
        squares = self.squares[images]
        twice_product = torch.maximum(squares + self.squares.max() - distances, distances)
        return _SLACK * (self.bounds[images] + _BF16 * twice_product)


def applies(x: Tensor) -> bool:
    """Whether to sieve (N, D) float32 rows here: a CPU with units for bf16, and work enough."""
    enough = len(x) >= WORTH_SIEVING and x.shape[1] >= _WORTH_WIDTH
    return enough and x.device.type == "cpu" and has_bf16(x.device)


def nearest_keys(x: Tensor, k: int, loops: ModuleType) -> Tensor | None:
    """The k nearest of each image but itself: keys (N, k), sorted; None if a sieve does not pay.

    Args:
        x: (N, D) float32, contiguous, on the CPU. k: below N.
        loops: the module `selection`, compiled.
    """
    rounded = _round(x)
    if not _LEAST <= float(rounded.squares.max()) <= _GREATEST:  # nor of a NaN
        return None
    size = _candidates(rounded, k)
    if size is None:
        return None
    heaps = empty_heaps(len(x), size)
    nothing = np.zeros(0, np.int32), torch.empty(0, len(x))
    walk(rounded.rows, rounded.squares.numpy(), heaps, *nothing, loops)
    heaps.sort(axis=1)

    every = torch.arange(len(x))
    kth, last = (distances_of(torch.from_numpy(heaps[:, place])) for place in (k - 1, size - 1))
    limits = kth + rounded.error(every, kth) * 2
    safe = last - rounded.error(every, last)
    unsettled = np.zeros(len(x), dtype=np.bool_)
    broken = np.zeros(len(x), dtype=np.bool_)
    errors = rounded.error(every, torch.zeros(len(x)))
    fixed = (
        x.detach().numpy(),
        heaps,
        k,
        limits.numpy(),
        safe.numpy(),
        errors.numpy(),
        unsettled,
        broken,
    )
    in_threads(loops.measure, [(*fixed, *p) for p in row_ranges(len(x))])
    if broken.any():
        say_once("bf16 products are less exact here than they should be: neighbours without them")
        return None
    heaps.sort(axis=1)
    keys = torch.from_numpy(heaps)[:, :k]
    for images in torch.from_numpy(unsettled.nonzero()[0]).split(max(1, _PAIRS // len(x))):
        keys[images] = nearest_of(x, images, k + 1)[:, 1:]
    return keys


def _round(x: Tensor) -> _Rounded:
    """Rows less their mean, which leaves distances alone and what is rounded smaller."""
    centre = x.mean(dim=0)
    rows = torch.empty(x.shape, dtype=torch.bfloat16)
    squares, moved = torch.empty(len(x)), torch.empty(len(x))
    for start in range(0, len(x), _ROWS):
        part = slice(start, start + _ROWS)
        centred = x[part] - centre
        rows[part] = centred
        squares[part] = centred.square().sum(dim=1)
        moved[part] = (centred - rows[part]).norm(dim=1)
    norms = squares.sqrt()
    largest = norms.max() + moved.max()  # no row is longer, before or after
    sums = 2 * (x.shape[1] + 12) * _FP32 * largest.square()
    return _Rounded(rows, squares, 2 * (norms * moved.max() + moved * largest) + sums)


def _candidates(rounded: _Rounded, k: int) -> int | None:
    """How many candidates an image should keep, from a sample; None if too many for a sieve."""
    n = len(rounded.rows)
    most = min(_MOST * k, n - 1)
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
