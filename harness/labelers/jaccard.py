"""The k-reciprocal Jaccard distance, sparse and exact.

Zhong, Zheng, Cao, Li, *Re-ranking Person Re-identification with k-reciprocal Encoding*, CVPR 2017,
in the form that clustering methods share since SpCL. Every image i is encoded as a sparse row V(i)
over the images that are its k-reciprocal neighbours; two images are as far apart as their rows
overlap little:

    s(i, j) = Σ_g min(V(i, g), V(j, g)),   D(i, j) = max(0, 1 − s / (2 − s)).

Most pairs do not overlap at all, at distance 1, and are never touched: time grows with the overlaps
that there are, and memory is that of the sparse rows, of the pairs asked for and of one block of
rows. V is held in fixed point. Sums of integers do not depend on their order, so from equal V the
distances are symmetric and equal bit for bit, however the sums are split among threads.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix
from torch import Tensor

from harness.errors import HarnessError
from harness.precision import exact_matmul

# V · 2^30 in int32. A row of V sums to 1, so overlaps fit, and an error of 2^-31 an entry is less
# than float32 sums make.
_ONE = 1 << 30

# Elements of scratch: a block of rows times N, and terms of the overlap's sum. Small blocks stay in
# a CPU's cache; a GPU wants large ones.
_SCRATCH_CPU, _SCRATCH_GPU = 1 << 22, 1 << 26
_TERMS_CPU, _TERMS_GPU = 1 << 19, 1 << 25
_CHUNK = 1 << 16

# About 4 GB of graph. Real features stay thousands of times below it at any useful radius.
_MOST_PAIRS = 1 << 28


@dataclass(frozen=True)
class Encoding:
    """V of N images as sparse rows, and the same entries by column.

    Attributes:
        starts: (N + 1,) int64, where each row's entries begin.
        columns: (E,) int64, ascending within a row.
        weights: (E,) int32, V · 2^30.
    """

    starts: Tensor
    columns: Tensor
    weights: Tensor
    _keys: Tensor = field(init=False, repr=False)
    _column_rows: Tensor = field(init=False, repr=False)
    _column_weights: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        images = torch.arange(len(self), device=self.columns.device)
        rows = images.repeat_interleave(self.starts.diff())
        keys, order = (self.columns * len(self) + rows).sort()
        object.__setattr__(self, "_keys", keys)
        object.__setattr__(self, "_column_rows", rows[order])
        object.__setattr__(self, "_column_weights", self.weights[order])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def dense(self) -> Tensor:
        """V as (N, N) float32; for small N."""
        rows = torch.arange(len(self), device=self.columns.device)
        out = torch.zeros(len(self), len(self), device=self.columns.device)
        out[rows.repeat_interleave(self.starts.diff()), self.columns] = self.weights.float() / _ONE
        return out

    def overlaps(self, rows: Tensor, first: int = 0) -> Tensor:
        """s · 2^30 of `rows` (R,) with the images first … N−1: (R, N − first) int32."""
        width = len(self) - first
        row, entry = _spans(self.starts[rows], self.starts[rows + 1])
        column = self.columns[entry] * len(self)
        owner, place = _spans(
            torch.searchsorted(self._keys, column + first),
            torch.searchsorted(self._keys, column + len(self)),
        )
        common = torch.minimum(self.weights[entry][owner], self._column_weights[place])
        cell = (row * width - first)[owner].add_(self._column_rows[place])
        out = torch.zeros(len(rows) * width, dtype=torch.int32, device=common.device)
        return out.index_add_(0, cell, common).view(len(rows), width)

    def terms(self) -> Tensor:
        """How many products each row's overlaps with all images add up: (N,) int64."""
        sizes = torch.bincount(self.columns, minlength=len(self))[self.columns]
        total = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        return total[self.starts[1:]] - total[self.starts[:-1]]


@torch.no_grad()
def encode(
    features: Tensor,
    ranks: Tensor,
    k1: int,
    k2: int,
    scale: Tensor | None = None,
    power: int = 1,
) -> Encoding:
    """The k-reciprocal encoding V, eq. 5–11 of the paper as the published code computes them.

    Q(i, ℓ) are the images j among the first ℓ neighbours of i that have i among their first ℓ.
    Q(i) takes all columns of `ranks`; it is expanded by each half set Q(j, round(k1/2) + 1), j in
    Q(i), of which more than two thirds lie in Q(i) as it was. V(i, ·) = softmax of −d over the
    expanded set, then the mean of V over the first k2 neighbours.

    Args:
        features: (N, D) float.
        ranks: (N, L) int64, neighbours of each image, itself first. L = k1 in clustering, k1 + 1 in
            re-ranking as published.
        k1: sets the half sets' length (half rounds to even).
        k2: query expansion; 1 is none.
        scale, power: d = ||x_i − x_j||^(2·power) / scale_i, with scale (N,), or 1. For unit rows
            the default is d = 2 − 2 x_i·x_j.

    Returns:
        V on the features' device.
    """
    starts, columns = _expanded_sets(ranks, round(k1 / 2) + 1)
    x = features.float().contiguous()
    rows = torch.arange(len(x), device=x.device).repeat_interleave(starts.diff())
    squares = x.square().sum(dim=1)
    cost = squares[rows] + squares[columns] - 2 * _dot_products(x, starts, columns)
    cost = cost.clamp_(min=0) ** power
    if scale is not None:
        cost /= scale[rows]
    # d ≥ 0 is bounded, so the exponential needs no shift; sums run along rows, one after another
    weights = torch.exp(-cost)
    weights /= torch.segment_reduce(weights, "sum", offsets=starts)[rows]
    fixed = weights.mul_(_ONE).round_().to(torch.int32)
    if k2 > 1:
        starts, columns, fixed = _mean_over(ranks[:, :k2], starts, columns, fixed)
    return Encoding(starts, columns, fixed)


def view_weights(views: int, part_weight: float) -> list[float]:
    """Weights of V views in the fused distance: 1 − (V − 1) λ1 for the global one, λ1 for parts."""
    return [1 - (views - 1) * part_weight] + [part_weight] * (views - 1)


@torch.no_grad()
def distance_rows(
    encodings: Sequence[Encoding], rows: Tensor, part_weight: float = 0.0, first: int = 0
) -> Tensor:
    """Jaccard distances of some images to the images first … N−1.

    D = (1 − (V−1) λ1) D_0 + λ1 Σ_{v≥1} D_v over V views (MSKD: V = 3, λ1 = 0.15).

    Args:
        encodings: one per view, the global one first.
        rows: (R,) int64.
        part_weight: λ1.
        first: the first column wanted.

    Returns:
        (R, N − first) float32 in [0, 1].
    """
    overlaps = [encoding.overlaps(rows, first) for encoding in encodings]
    return _distances(overlaps, view_weights(len(encodings), part_weight))


@torch.no_grad()
def radius_graph(encodings: Sequence[Encoding], eps: float, part_weight: float = 0.0) -> csr_matrix:
    """All pairs within `eps` of each other, of the (fused) distance of `distance_rows`.

    Returns:
        (N, N) float32 on the CPU, symmetric; an entry that is 0 is stored, one beyond eps is not.
        An image is within any radius that exceeds 1e-6 of itself, so the diagonal is there.

    Raises:
        HarnessError: so many pairs that they would not fit into memory.
    """
    n, device = len(encodings[0]), encodings[0].columns.device
    weights = view_weights(len(encodings), part_weight)
    radius = float(np.float32(eps))  # as a float32 matrix would be compared
    terms = torch.stack([encoding.terms() for encoding in encodings]).amax(dim=0)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    pairs = 0
    for start, stop in row_blocks(terms, n):
        rows = torch.arange(start, stop, device=device)
        overlaps = [encoding.overlaps(rows, first=start) for encoding in encodings]
        # pairs that share nothing in any view are at distance 1
        if radius < 1:
            near = overlaps[0] if len(overlaps) == 1 else torch.stack(overlaps).amax(dim=0)
            cells = near.flatten().nonzero()[:, 0]
        else:
            cells = torch.arange(overlaps[0].numel(), device=device)
        distances = _distances([overlap.flatten()[cells] for overlap in overlaps], weights)
        row, column = cells // (n - start), cells % (n - start)
        keep = (distances <= radius) & (row <= column)  # each pair once
        found.append(
            (
                (row[keep] + start).to(torch.int32).cpu().numpy(),
                (column[keep] + start).to(torch.int32).cpu().numpy(),
                distances[keep].cpu().numpy(),
            )
        )
        pairs += len(found[-1][0])
        if pairs > _MOST_PAIRS:
            raise HarnessError(
                f"more than {_MOST_PAIRS} pairs of images lie within eps {eps:g}",
                "Lower eps; if it is not high, the features have collapsed to a point.",
            )
    i, j, value = (np.concatenate(part) for part in zip(*found, strict=True))
    other = i != j
    both = np.concatenate([i, j[other]]), np.concatenate([j, i[other]])
    return coo_matrix((np.concatenate([value, value[other]]), both), shape=(n, n)).tocsr()


def row_blocks(terms: Tensor, width: int) -> Iterator[tuple[int, int]]:
    """Cut rows into blocks (start, stop) of bounded scratch.

    Args:
        terms: (R,) int64, the terms of each row's sums; see `Encoding.terms`.
        width: columns of the block.
    """
    cpu = terms.device.type == "cpu"
    most_rows = max(1, (_SCRATCH_CPU if cpu else _SCRATCH_GPU) // max(1, width))
    total = terms.cumsum(0).cpu().numpy()
    start, done = 0, 0
    while start < len(total):
        stop = int(np.searchsorted(total, done + (_TERMS_CPU if cpu else _TERMS_GPU), "right"))
        stop = min(max(stop, start + 1), start + most_rows)
        yield start, min(stop, len(total))
        start, done = stop, int(total[min(stop, len(total)) - 1])


def _distances(overlaps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Fixed-point overlaps of each view → fused distances, as 1 − Σ_v w_v min(1, s_v / (2 − s_v)).

    As the weights add up to 1 this is Σ_v w_v D_v, and exactly 1 where nothing overlaps.
    """
    similarity = torch.zeros(overlaps[0].shape, dtype=torch.float64, device=overlaps[0].device)
    for overlap, weight in zip(overlaps, weights, strict=True):
        s = overlap.to(torch.float64)
        similarity += weight * (s / (2 * _ONE - s)).clamp_(max=1)
    return (1 - similarity).to(torch.float32)


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
    cells = torch.cat([pairs, *sets]).unique()
    return _starts(torch.bincount(cells // n, minlength=n)), cells % n


def _reciprocal(ranks: Tensor) -> Tensor:
    """Which of the neighbours (N, L) have the image among theirs: (N, L) bool."""
    n = len(ranks)
    image = torch.arange(n, device=ranks.device)[:, None]
    return torch.isin(ranks * n + image, image * n + ranks, assume_unique=True)


def _mean_over(
    ranks: Tensor, starts: Tensor, columns: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Sparse rows averaged over the images in each row of `ranks` (N, k2), in fixed point."""
    n, k2 = ranks.shape
    sizes, new_columns, new_weights = [], [], []
    for start, stop in row_blocks(starts.diff()[ranks].sum(dim=1), 1):
        images = ranks[start:stop].flatten()
        owner, entry = _spans(starts[images], starts[images + 1])
        cells, place = (owner // k2 * n + columns[entry]).unique(return_inverse=True)
        total = torch.zeros_like(cells).index_add_(0, place, weights[entry].long())
        sizes.append(torch.bincount(cells // n, minlength=stop - start))
        new_columns.append(cells % n)
        new_weights.append((total + k2 // 2).div_(k2, rounding_mode="floor"))
    merged = torch.cat(new_weights).to(torch.int32)
    return _starts(torch.cat(sizes)), torch.cat(new_columns), merged


def _dot_products(x: Tensor, starts: Tensor, columns: Tensor) -> Tensor:
    """x_i·x_j for the pairs of sparse rows, without gathering E×D features: (E,)."""
    n = len(x)
    with warnings.catch_warnings(), exact_matmul(x.device):
        warnings.simplefilter("ignore", UserWarning)  # "Sparse CSR tensor support is in beta state"
        pattern = torch.sparse_csr_tensor(
            starts, columns, x.new_zeros(len(columns)), (n, n), check_invariants=False
        )
        return torch.sparse.sampled_addmm(pattern, x, x.T).values()


def _starts(sizes: Tensor) -> Tensor:
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _spans(start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """The ranges start … stop−1 one after another: for each element its range, and the element."""
    size = stop - start
    owner = torch.repeat_interleave(size)
    offset = start - (size.cumsum(0) - size)
    return owner, offset[owner].add_(torch.arange(len(owner), device=owner.device))
