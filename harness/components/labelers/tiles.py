"""Packed keys of neighbors, and the search with compiled kernels, tile by tile.

A key is `bits of the squared distance << 32 | image`: keys sort by distance, then by image.
Products are symmetric, so each tile on or above the diagonal serves its rows and its columns.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.core.kernels import in_threads, row_ranges
from harness.core.precision import exact_matmul

#: (largest N, side of the square tiles): small tiles waste less on the diagonal, large ones are
#: faster for large N (powers of two: other sides were up to a fifth slower)
_TILES = ((2048, 256), (4096, 512), (8192, 1024))
_LARGEST_TILE = 2048
#: strips of columns, so narrow that their heaps fit into a core's cache
_STRIPS = 8
#: rows squared at once
_ROWS = 1024


def empty_heaps(images: int, size: int) -> Any:
    """Heaps (N, size) of keys int64, all at a distance of infinity."""
    return np.full((images, size), 0x7F800000 << 32, dtype=np.int64)


def squared_norms(x: Tensor) -> Tensor:
    """||x_i||² of rows (N, D): (N,), without a second array (N, D)."""
    return torch.cat([rows.square().sum(dim=1) for rows in x.split(_ROWS)])


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """||x_i − y_j||² of rows (A, D) and (B, D): (A, B), never negative."""
    products = torch.addmm(squared_norms(y), x, y.T, alpha=-2)
    return products.add_(squared_norms(x)[:, None]).clamp_(min=0)


def keys_of(distances: Tensor, first: int = 0) -> Tensor:
    """Distances (A, B) to images first … first+B−1 as int64 that sort by distance, then image.

    The bits of floats ≥ 0, read as integers, sort like the floats, and those of −0.0 are the
    smallest integer. So −0.0 marks an image's distance to itself.
    """
    columns = torch.arange(first, first + distances.shape[1], device=distances.device)
    return distances.view(torch.int32).to(torch.int64).bitwise_left_shift_(32).bitwise_or_(columns)


def distances_of(keys: Tensor) -> Tensor:
    """The squared distances of keys, float32."""
    return (keys >> 32).to(torch.int32).view(torch.float32)


def smallest(keys: Tensor, k: int) -> Tensor:
    """The k smallest of each row of (A, B), in any order; all of them if k > B."""
    return keys.topk(min(k, keys.shape[1]), dim=1, largest=False, sorted=False).values


def nearest_of(x: Tensor, images: Tensor, k: int) -> Tensor:
    """Sorted keys (A, k) of images (A,) of (N, D), from whole rows; themselves first."""
    with exact_matmul(x.device):
        distances = squared_distances(x[images], x)
    distances[torch.arange(len(images)), images] = -0.0
    return smallest(keys_of(distances), k).sort(dim=1).values


def walk(x: Tensor, squares: Any, heaps: Any, far: Any, kept: Tensor, kernels: ModuleType) -> None:
    """Find the nearest images of every image; see `kernels/selection.py`.

    Args:
        x: (N, D), float32 or bf16, the type of the products. squares: (N,), its squared norms.
        heaps: (N, k) int64, from `empty_heaps`; receives the k smallest keys, unsorted.
        far: (N,) int32 of zeros; receives the bits of each row's largest distance. May be empty.
        kept: (K, N − K) float32; receives the distances of the first K images to the others.
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
                fixed, strips = (array, top, left), row_ranges(len(columns), _STRIPS)
                ranges = row_ranges(len(rows))
                in_threads(kernels.select_rows, [(*fixed, squares, heaps, far, *p) for p in ranges])
                in_threads(kernels.select_columns, [(*fixed, heaps, far, *p) for p in strips])
                keep_part(products, top, left, kept)


def keep_part(tile: Tensor, top: int, left: int, kept: Tensor) -> None:
    """Copy what a tile holds of the distances of images 0 … K−1 to K … N−1 into `kept`."""
    first = len(kept)
    if top < first < left + tile.shape[1]:
        part = tile[: first - top, max(0, first - left) :]
        column = max(0, left - first)
        kept[top : top + len(part), column : column + part.shape[1]] = part
