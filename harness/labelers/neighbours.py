"""Exact nearest neighbours of every image among all images, without an N×N matrix.

Order is by squared Euclidean distance, then by image number, and an image is always its own first
neighbour, however many copies of it there are. Two distances tie when they are equal as computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.errors import ConfigError
from harness.precision import exact_matmul

BACKENDS = ("auto", "torch", "faiss")

# Side of the square tiles that distances are computed in.
_TILE_CPU, _TILE_GPU = 1024, 4096
_LARGEST_KEY = torch.iinfo(torch.int64).max


def nearest(features: Tensor, k: int, backend: str = "auto") -> Tensor:
    """The k nearest images of each image.

    Args:
        features: (N, D), finite, any floating type; the arithmetic is float32.
        k: neighbours, the image itself included. At most N are returned.
        backend: `torch` searches on the features' device; `faiss` needs the faiss package; `auto`
            is torch, which halves the work by using that distances are symmetric (measured: faster
            than faiss's flat index on the CPU) and needs nothing installed.

    Returns:
        (N, min(k, N)) int64, nearest first, column 0 the image itself, on the features' device.

    Raises:
        ConfigError: an unknown backend, or `faiss` asked for where it cannot be imported.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"unknown search '{backend}'", f"Use one of {', '.join(BACKENDS)}.")
    k = min(k, len(features))
    if backend == "faiss":
        return _ranks(_search_faiss(features.float().contiguous(), k))
    return nearest_and_farthest(features, k)[0]


@torch.no_grad()
def nearest_and_farthest(features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `nearest`, with the largest squared distance of each row.

    Returns:
        ranks (N, min(k, N)) int64 and the maxima (N,) float32.
    """
    x = features.float().contiguous()
    n, k = len(x), min(k, len(x))
    tile = _TILE_CPU if x.device.type == "cpu" else _TILE_GPU
    best = torch.full((n, k), _LARGEST_KEY, device=x.device)
    farthest = torch.zeros(n, device=x.device)

    def merge(rows: slice, distances: Tensor, first: int) -> None:
        keys = _smallest(_keys(distances, first), k)
        best[rows] = _smallest(torch.cat([best[rows], keys], dim=1), k)
        farthest[rows] = torch.maximum(farthest[rows], distances.amax(dim=1))

    with exact_matmul(x.device):
        for top in range(0, n, tile):
            rows = slice(top, top + tile)
            for left in range(top, n, tile):
                columns = slice(left, left + tile)
                distances = squared_distances(x[rows], x[columns])
                if left == top:
                    distances.fill_diagonal_(-0.0)  # see _keys
                else:  # the tile below the diagonal is this one's transpose
                    merge(columns, distances.T.contiguous(), top)
                merge(rows, distances, left)
    return _ranks(best.sort(dim=1).values), farthest


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """||x_i − y_j||² of rows (A, D) and (B, D): (A, B), never negative."""
    squares = x.square().sum(dim=1), y.square().sum(dim=1)
    products = torch.addmm(squares[1][None, :], x, y.T, alpha=-2)
    return products.add_(squares[0][:, None]).clamp_(min=0)


def _keys(distances: Tensor, first: int) -> Tensor:
    """Distances (A, B) to images first … first+B−1 as int64 that sort by distance, then image.

    The bits of a float ≥ 0, read as an integer, are in the order of the floats, and those of −0.0
    are the smallest integer of all. So −0.0 marks an image's distance to itself.
    """
    columns = torch.arange(first, first + distances.shape[1], device=distances.device)
    return distances.view(torch.int32).to(torch.int64).bitwise_left_shift_(32).bitwise_or_(columns)


def _ranks(keys: Tensor) -> Tensor:
    return keys & 0xFFFFFFFF


def _smallest(keys: Tensor, k: int) -> Tensor:
    return keys.topk(min(k, keys.shape[1]), dim=1, largest=False, sorted=False).values


def _search_faiss(x: Tensor, k: int) -> Tensor:
    """Sorted keys (N, k) by faiss's flat index, which says nothing about ties: we settle those."""
    try:
        import faiss
    except Exception as error:  # a broken build raises more than ImportError
        raise ConfigError(
            f"faiss cannot be imported ({error})", "Install faiss, or use search=torch."
        ) from error
    index: Any = faiss.IndexFlatL2(x.shape[1])
    if x.is_cuda and hasattr(faiss, "StandardGpuResources"):
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), x.device.index or 0, index)
    array = x.detach().cpu().numpy()
    index.add(array)
    # one more than asked for shows whether the last place was a tie
    found, numbers = index.search(array, min(k + 1, len(x)))
    distances = torch.from_numpy(found).clamp_(min=0).to(x.device)
    ranks = torch.from_numpy(numbers).to(x.device)

    myself = ranks == torch.arange(len(x), device=x.device)[:, None]
    distances[myself] = -0.0
    keys = _keys(distances, 0) & ~0xFFFFFFFF | ranks
    unsettled = ~myself.any(dim=1)
    if k < len(x):
        unsettled |= distances[:, k] == distances[:, k - 1]
    keys = keys.sort(dim=1).values[:, :k]
    for rows in unsettled.nonzero()[:, 0].split(_TILE_CPU):
        with exact_matmul(x.device):
            whole = squared_distances(x[rows], x)
        whole[torch.arange(len(rows)), rows] = -0.0
        keys[rows] = _smallest(_keys(whole, 0), k).sort(dim=1).values
    return keys
