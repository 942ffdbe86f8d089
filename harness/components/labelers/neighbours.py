"""Exact nearest neighbors of every image among all images, without an N×N matrix.

Neighbors are ordered by squared Euclidean distance, then by image number, and every image is its
own first neighbor. Distances are float32, and each backend rounds them in its own way: neighbors
that are closer to each other than that may swap places between backends. Duplicate rows never do
(`duplicates.py`).

Distances are symmetric, so only tiles on and above the diagonal are computed. Each image keeps the
k smallest keys of each tile (`tiles.py`). On CPUs with bf16 units a prefilter leaves only a
few pairs to measure (`bf16_prefilter.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from harness.components.labelers import bf16_prefilter
from harness.components.labelers.duplicates import find_duplicates, spread
from harness.components.labelers.tiles import (
    distances_of,
    empty_heaps,
    keep_part,
    keys_of,
    nearest_of,
    smallest,
    squared_distances,
    squared_norms,
    walk,
)
from harness.core.errors import ConfigError, say_once
from harness.core.host_memory import halving
from harness.core.kernels import kernels
from harness.core.precision import exact_matmul

Search = Annotated[
    Literal["auto", "torch", "faiss"],
    Field(description="backend of the exact neighbor search; auto is torch, the faster one"),
]

# Sides of the square tiles of distances.
_TILE_CPU, _TILE_GPU = 1024, 4096
#: the number of images from which loading the compiled kernels pays off
WORTH_COMPILING = 256


@dataclass(frozen=True)
class Neighbours:
    """The k nearest images of each image, on the features' device.

    ranks: (N, k) int64, nearest first, column 0 the image itself.
    distances: (N, k) float32, squared Euclidean.
    farthest: (N,) float32, each image's largest squared distance, if requested.
    kept: (K, N − K) float32, squared distances of the first K images to all others, if requested.
    """

    ranks: Tensor
    distances: Tensor
    farthest: Tensor | None = None
    kept: Tensor | None = None


def nearest(features: Tensor, k: int, backend: str = "auto") -> Tensor:
    """The ranks of `search`: (N, min(k, N)) int64."""
    return search(features, k, backend).ranks


@torch.no_grad()
def search(
    features: Tensor, k: int, backend: str = "auto", farthest: bool = False, keep: int = 0
) -> Neighbours:
    """The k nearest images of each image, itself included.

    Args:
        features: (N, D), finite, any floating type; the arithmetic is float32.
        k: number of neighbors, at most N.
        backend: `torch` searches on the features' device, for large N on the CPU with compiled
            kernels if numba is installed. `faiss` is faiss's flat index, on the GPU if possible;
            if it fails, torch replaces it, with a notice. `auto` is torch, which by symmetry needs
            half the products of faiss's index (2.0 to 2.9 times as fast on CPUs).
        farthest, keep: fill `farthest` and, for K = `keep`, `kept` of the result.

    Raises:
        ConfigError: an unknown backend.
    """
    if backend not in (known := get_args(get_args(Search)[0])):
        raise ConfigError(f"There is no search backend '{backend}'.", f"Known: {', '.join(known)}.")
    x = features.float().contiguous()
    k = min(k, len(x))
    duplicates = find_duplicates(x) if k > 1 else None
    if duplicates is None:
        return _search(x, k, backend, farthest, keep)
    first, which = duplicates
    among = _search(x[first], min(k, len(first)), backend, farthest=False, keep=0)
    ranks, distances = spread(among.ranks, among.distances, which, k)
    if not (farthest or keep):
        return Neighbours(ranks, distances)
    rest = _search(x, 2, backend, farthest, keep)
    return Neighbours(ranks, distances, rest.farthest, rest.kept)


def _search(x: Tensor, k: int, backend: str, farthest: bool, keep: int) -> Neighbours:
    """The search without regard to duplicates."""
    if backend == "faiss" and not farthest and not keep:
        try:
            return _from_keys(_search_faiss(x, k))
        except Exception as error:  # a broken build raises more than ImportError
            reason = " ".join(str(error).split())[:100]
            say_once(f"faiss failed ({reason}): torch searches instead, as exactly")
    compiled = compiled_for(x, len(x), "selection") if k > 1 else None
    if compiled is not None:
        return _search_compiled(x, k, farthest, keep, compiled)
    tile = _TILE_CPU if x.device.type == "cpu" else _TILE_GPU
    return halving(lambda side: _search_torch(x, k, keep, side), tile, "the neighbour search")


def compiled_for(x: Tensor, images: int, module: str) -> ModuleType | None:
    """A module of `labelers.kernels` for N images and data x; None where it does not pay off."""
    if x.device.type != "cpu" or images < WORTH_COMPILING:
        return None
    return kernels(f"harness.components.labelers.kernels.{module}")


def _search_compiled(
    x: Tensor, k: int, farthest: bool, keep: int, selection: ModuleType
) -> Neighbours:
    """Products by torch, selection by compiled kernels."""
    n = len(x)
    itself = torch.arange(n)[:, None] | -1 << 63  # at −0, below all others
    if not farthest and not keep and bf16_prefilter.applies(x):
        keys = bf16_prefilter.nearest_keys(x, k - 1, selection)
        if keys is not None:
            return _from_keys(torch.cat([itself, keys], dim=1))
    heaps = empty_heaps(n, k - 1)
    far = np.zeros(n if farthest else 0, dtype=np.int32)
    kept = torch.empty(keep, n - keep)
    walk(x, squared_norms(x).numpy(), heaps, far, kept, selection)
    heaps.sort(axis=1)
    keys = torch.cat([itself, torch.from_numpy(heaps)], dim=1)
    largest = torch.from_numpy(far.view(np.float32)) if farthest else None
    return _from_keys(keys, largest, kept if keep else None)


def _search_torch(x: Tensor, k: int, keep: int, tile: int) -> Neighbours:
    """The same in tensor operations, for GPUs and without numba."""
    n = len(x)
    best = torch.full((n, k), torch.iinfo(torch.int64).max, device=x.device)
    farthest = torch.zeros(n, device=x.device)
    kept = torch.empty(keep, n - keep, device=x.device)

    def merge(rows: slice, distances: Tensor, first: int) -> None:
        keys = smallest(keys_of(distances, first), k)
        best[rows] = smallest(torch.cat([best[rows], keys], dim=1), k)
        farthest[rows] = torch.maximum(farthest[rows], distances.amax(dim=1))

    with exact_matmul(x.device):
        for top in range(0, n, tile):
            rows = slice(top, top + tile)
            for left in range(top, n, tile):
                columns = slice(left, left + tile)
                distances = squared_distances(x[rows], x[columns])
                keep_part(distances, top, left, kept)
                if left == top:
                    distances.fill_diagonal_(-0.0)  # see `keys_of`
                else:  # the tile below the diagonal is this one's transpose
                    merge(columns, distances.T.contiguous(), top)
                merge(rows, distances, left)
    return _from_keys(best.sort(dim=1).values, farthest, kept if keep else None)


def _search_faiss(x: Tensor, k: int) -> Tensor:
    """Sorted keys (N, k) by faiss's flat index; ties are sorted here, as faiss does not."""
    import faiss

    index: Any = faiss.IndexFlatL2(x.shape[1])
    if x.is_cuda and hasattr(faiss, "StandardGpuResources"):
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), x.device.index or 0, index)
    array = x.detach().cpu().numpy()
    index.add(array)
    # one more neighbor shows whether the last place was a tie
    found, numbers = index.search(array, min(k + 1, len(x)))
    distances = torch.from_numpy(found).clamp_(min=0).to(x.device)
    ranks = torch.from_numpy(numbers).to(x.device)

    myself = ranks == torch.arange(len(x), device=x.device)[:, None]
    distances[myself] = -0.0
    keys = keys_of(distances) & ~0xFFFFFFFF | ranks
    unsettled = ~myself.any(dim=1)
    if k < len(x):
        unsettled |= distances[:, k] == distances[:, k - 1]
    keys = keys.sort(dim=1).values[:, :k]
    for rows in unsettled.nonzero()[:, 0].split(_TILE_CPU):
        keys[rows] = nearest_of(x, rows, k)
    return keys


def _from_keys(keys: Tensor, *others: Tensor | None) -> Neighbours:
    return Neighbours(keys & 0xFFFFFFFF, distances_of(keys).abs_(), *others)
