"""The sparse k-reciprocal encoding of images, on which the Jaccard distance is defined.

Zhong, Zheng, Cao, Li, *Re-ranking Person Re-identification with k-reciprocal Encoding*, CVPR 2017,
in the form that clustering methods share since SpCL. Every image i is encoded as a sparse row V(i)
over its k-reciprocal neighbors. V is stored in fixed point: sums of integers do not depend on their
order, so distances are symmetric, and bit for bit the same for any number of threads and either
implementation.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from harness.components.labelers.neighbours import compiled_for
from harness.components.labelers.sparse import offsets, row_blocks, spans
from harness.components.labelers.tiles import squared_norms
from harness.core.kernels import in_threads, row_ranges
from harness.core.precision import exact_matmul

#: V · 2^30 in int32: a row of V sums to 1, so overlaps fit, and 2^-31 per entry is less than the
#: rounding error of float32 sums
ONE = 1 << 30

_CHUNK = 1 << 16

SparseRows = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Encoding:
    """V of N images as sparse rows.

    starts: (N + 1,) int64, where each row's entries begin.
    columns: (E,) int32, ascending within a row. weights: (E,) int32, V · 2^30.
    """

    starts: Tensor
    columns: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1

    @cached_property
    def by_column(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same entries by column: starts (N + 1,), rows (E,), ascending, and weights (E,)."""
        n = len(self)
        kernels = compiled_for(self.columns, n, "encoding")
        if kernels is not None:
            own = (tensor.numpy() for tensor in (self.starts, self.columns, self.weights))
            begins, rows, weights = map(torch.from_numpy, kernels.transposed(*own))
            return begins, rows, weights
        rows = torch.repeat_interleave(self.starts.diff()).to(torch.int32)
        order = torch.sort(self.columns, stable=True).indices
        begins = offsets(torch.bincount(self.columns, minlength=n))
        return begins, rows[order], self.weights[order]

    def terms(self) -> Tensor:
        """The number of terms in the sums of each row's overlaps with all images: (N,) int64."""
        sizes = torch.bincount(self.columns, minlength=len(self))
        return offsets(sizes[self.columns.long()])[self.starts].diff()


@torch.no_grad()
def encode(
    features: Tensor, ranks: Tensor, k1: int, k2: int, scale: Tensor | None = None, power: int = 1,
    distances: Tensor | None = None,
) -> Encoding:  # fmt: skip
    """The k-reciprocal encoding V, eq. 5–11 of the paper as the published code computes them.

    Q(i, ℓ) are the images j among the first ℓ neighbors of i that have i among their first ℓ.
    Q(i) takes all columns of `ranks`; it is expanded by each half set Q(j, round(k1/2) + 1), j in
    Q(i), of which more than two thirds lie in the original Q(i). V(i, ·) is the softmax of −d over
    the expanded set, averaged over the first k2 neighbors.

    Args:
        features: (N, D) float.
        ranks: (N, L) int64, neighbors of each image, itself first. As published, L = k1 in
            clustering and k1 + 1 in re-ranking.
        k1: sets the length of the half sets (halves round to even).
        k2: neighbors of query expansion; 1: none.
        scale, power: d = ||x_i − x_j||^(2·power) / scale_i, with scale (N,), or 1. For unit rows
            the default is d = 2 − 2 x_i·x_j.
        distances: (N, L) float32, squared distances of the neighbors, if known.
    """
    x = features.float().contiguous()
    half = round(k1 / 2) + 1
    kernels = compiled_for(x, len(x), "encoding")
    squares = squared_norms(x)
    if kernels is not None:  # one range of rows per thread
        n, ranges = len(x), row_ranges(len(x))
        lists = ranks.to(torch.int32).numpy()
        near = np.full(ranks.shape, -1, np.float32) if distances is None else distances.numpy()
        divisors = np.ones(n, np.float32) if scale is None else scale.float().numpy()
        sizes, sets = np.empty(n, np.int32), np.empty((n, half), np.int32)
        in_threads(kernels.half_sets, [(lists, half, sizes, sets, *p) for p in ranges])
        fixed = (x.numpy(), squares.numpy(), lists, near, sizes, sets, divisors, power, ONE)
        v = joined_rows(in_threads(kernels.expanded_weights, [(*fixed, *p) for p in ranges]))
        if k2 > 1:
            chosen = np.ascontiguousarray(lists[:, :k2])
            v = joined_rows(in_threads(kernels.mean_rows, [(chosen, *v, *p) for p in ranges]))
        return Encoding(*map(torch.from_numpy, v))
    starts, columns = _expanded_sets(ranks, half)
    rows = torch.repeat_interleave(starts.diff())
    cost = squares[rows] + squares[columns] - 2 * _dot_products(x, starts, columns)
    cost = cost.clamp_(min=0) ** power
    if scale is not None:
        cost /= scale[rows]
    # d ≥ 0 is bounded, so the exponential needs no shift
    weights = torch.exp(-cost)
    weights /= torch.segment_reduce(weights, "sum", offsets=starts)[rows]
    weights = weights.mul_(ONE).round_().to(torch.int32)
    if k2 > 1:
        starts, columns, weights = _mean_over(ranks[:, :k2], starts, columns, weights)
    return Encoding(starts, columns.to(torch.int32), weights)


def joined_rows(parts: Iterable[SparseRows]) -> SparseRows:
    """Ranges of sparse rows (sizes, columns, values) to starts, columns and values of all."""
    sizes, columns, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    return np.concatenate([[0], np.cumsum(sizes)]), columns, values


def _expanded_sets(ranks: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """The expanded k-reciprocal sets as sparse rows: starts (N + 1,), columns (E,) ascending."""
    n = len(ranks)
    row, place = _reciprocal(ranks).nonzero(as_tuple=True)
    member = ranks[row, place]
    pairs = (row * n + member).sort().values
    ranks_half = ranks[:, :half]
    in_half = _reciprocal(ranks_half)
    half_size = in_half.sum(dim=1)

    sets = []
    for chunk_row, chunk in zip(row.split(_CHUNK), member.split(_CHUNK), strict=True):
        wanted = chunk_row[:, None] * n + ranks_half[chunk]  # all candidates of all members
        counted = in_half[chunk]
        found = pairs[torch.searchsorted(pairs, wanted).clamp_(max=len(pairs) - 1)] == wanted
        enough = 3 * (found & counted).sum(dim=1) > 2 * half_size[chunk]
        sets.append(wanted[counted & enough[:, None]].unique())
    entries = torch.cat([pairs, *sets]).unique()
    return offsets(torch.bincount(entries // n, minlength=n)), entries % n


def _reciprocal(ranks: Tensor) -> Tensor:
    """Whether each neighbor (N, L) has the image among its own neighbors: (N, L) bool."""
    n = len(ranks)
    image = torch.arange(n, device=ranks.device)[:, None]
    return torch.isin(ranks * n + image, image * n + ranks, assume_unique=True)


def _mean_over(
    ranks: Tensor, starts: Tensor, columns: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sparse rows averaged over the images in each row of `ranks` (N, k2), halves rounded up."""
    n, k2 = ranks.shape
    sizes, new_columns, new_weights = [], [], []
    for start, stop in row_blocks(starts.diff()[ranks].sum(dim=1), 1):
        images = ranks[start:stop].flatten()
        owner, entry = spans(starts[images], starts[images + 1])
        entries, place = (owner // k2 * n + columns[entry]).unique(return_inverse=True)
        total = torch.zeros_like(entries).index_add_(0, place, weights[entry].long())
        sizes.append(torch.bincount(entries // n, minlength=stop - start))
        new_columns.append(entries % n)
        new_weights.append((total + k2 // 2) // k2)
    merged = torch.cat(new_weights).to(torch.int32)
    return offsets(torch.cat(sizes)), torch.cat(new_columns), merged


def _dot_products(x: Tensor, starts: Tensor, columns: Tensor) -> Tensor:
    """x_i·x_j of the pairs in sparse rows, without gathering E×D features: (E,)."""
    n = len(x)
    with warnings.catch_warnings(), exact_matmul(x.device):
        warnings.simplefilter("ignore", UserWarning)  # "Sparse CSR tensor support is in beta state"
        pattern = torch.sparse_csr_tensor(
            starts, columns, x.new_zeros(len(columns)), (n, n), check_invariants=False
        )
        return torch.sparse.sampled_addmm(pattern, x, x.T).values()
