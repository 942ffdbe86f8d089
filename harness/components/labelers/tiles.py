"""The walk of compiled loops over the products of all pairs, tile by tile.

Products are symmetric: tiles on and above the diagonal serve both their rows and their columns.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.core.kernels import in_threads, row_ranges
from harness.core.precision import exact_matmul

#: sides of the square tiles, by N: small jobs waste less on the diagonal, large ones go faster in
#: large tiles (powers of two: others were up to a fifth slower)
_TILES = ((2048, 256), (4096, 512), (8192, 1024))
_LARGEST_TILE = 2048
#: columns choose in strips so narrow that their heaps stay in a core's cache
_STRIPS = 8
#: rows whose squares are formed together
_ROWS = 1024


def empty_heaps(images: int, size: int) -> Any:
    """Heaps (N, size) of keys int64, all at a distance of infinity."""
    return np.full((images, size), 0x7F800000 << 32, dtype=np.int64)


def squared_norms(x: Tensor) -> Tensor:
    """||x_i||² of rows (N, D): (N,), without a second array of that size."""
    return torch.cat([rows.square().sum(dim=1) for rows in x.split(_ROWS)])


def walk(x: Tensor, squares: Any, heaps: Any, far: Any, kept: Tensor, loops: ModuleType) -> None:
    """Let every image choose its nearest among all others; see `loops/selection.py`.

    Args:
        x: (N, D), float32 or bf16: products are formed in that type.
        squares: (N,) float32, each row's squared norm.
        heaps: (N, k) int64, from `empty_heaps`; holds the k smallest keys afterwards, unsorted.
        far: (N,) int32 of zeros, to be each row's largest distance's bits; empty: not wanted.
        kept: (K, N − K) float32, to be the distances of the first K images to the others.
        loops: the module `selection`, compiled.
    """
    n = len(x)
    side = next((side for most, side in _TILES if n <= most), _LARGEST_TILE)
    scratch = torch.empty(min(side, n) ** 2)
    own = scratch if x.dtype == torch.float32 else torch.empty(len(scratch), dtype=x.dtype)
    with exact_matmul(x.device):
        for top in range(0, n, side):
            for left in range(top, n, side):
                rows, columns = x[top : top + side], x[left : left + side]
                shape, size = (len(rows), len(columns)), len(rows) * len(columns)
                products = torch.mm(rows, columns.T, out=own[:size].view(shape))
                if own is not scratch:
                    products = scratch[:size].view(shape).copy_(products)
                array = products.numpy()
                in_threads(
                    loops.select_rows,
                    [(array, top, left, squares, heaps, far, *p) for p in row_ranges(len(rows))],
                )
                in_threads(
                    loops.select_columns,
                    [(array, top, left, heaps, far, *p) for p in row_ranges(len(columns), _STRIPS)],
                )
                keep_part(products, top, left, kept)


def keep_part(tile: Tensor, top: int, left: int, kept: Tensor) -> None:
    """Copy a tile's part of the distances of images 0 … K−1 to K … N−1, all above the diagonal."""
    first = len(kept)
    if top < first < left + tile.shape[1]:
        part = tile[: first - top, max(0, first - left) :]
        column = max(0, left - first)
        kept[top : top + len(part), column : column + part.shape[1]] = part
