"""The k-reciprocal Jaccard distance, sparse and exact.

The distance of two images measures how little their encodings V overlap (Zhong et al., CVPR 2017):

    s(i, j) = Σ_g min(V(i, g), V(j, g)),   D(i, j) = max(0, 1 − s / (2 − s)).

Pairs without overlap, at distance 1, are never touched: time grows with the number of overlaps, and
memory holds the sparse rows, the pairs within the radius and one block of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from harness.components.labelers.encoding import ONE, Encoding, SparseRows, joined_rows
from harness.components.labelers.neighbours import compiled_for
from harness.components.labelers.sparse import row_blocks, spans
from harness.core.errors import HarnessError
from harness.core.host_memory import halving
from harness.core.kernels import in_threads, row_ranges

# About 3 GB at the peak. Real features have hundreds of times fewer pairs at any useful radius.
_MAX_PAIRS = 1 << 26
_SHRINK = 1 << 10  # how far blocks may shrink before the GPU is too small


def _view_weights(views: int, part_weight: float) -> list[float]:
    """Weights of V views in the fused distance: 1 − (V − 1) λ1 for the global one, λ1 for parts."""
    return [1 - (views - 1) * part_weight] + [part_weight] * (views - 1)


@torch.no_grad()
def distance_rows(
    encodings: Sequence[Encoding], rows: Tensor, part_weight: float = 0.0, first: int = 0
) -> Tensor:
    """Jaccard distances of some images to the images first … N−1.

    D = (1 − (V−1) λ1) D_0 + λ1 Σ_{v≥1} D_v over V views, the global one first; `part_weight` is λ1
    (MSKD: V = 3, λ1 = 0.15). Rows (R,) int64 → (R, N − first) float32 in [0, 1].
    """
    shares = _view_weights(len(encodings), part_weight)
    kernels = compiled_for(encodings[0].columns, len(encodings[0]), "overlaps")
    if kernels is not None:
        out = np.empty((len(rows), len(encodings[0]) - first), dtype=np.float32)
        fixed = (*_arrays(encodings), np.array(shares), ONE, rows.numpy(), first, out)
        in_threads(kernels.all_distances, [(*fixed, *p) for p in row_ranges(len(rows))])
        return torch.from_numpy(out)
    return _distances([overlaps(encoding, rows, first) for encoding in encodings], shares)


@torch.no_grad()
def radius_graph(encodings: Sequence[Encoding], eps: float, part_weight: float = 0.0) -> csr_matrix:
    """All pairs of images within `eps`, by the (fused) distance of `distance_rows`.

    Returns (N, N) float32, symmetric, with stored zeros, without the diagonal and what is beyond
    eps. Raises a HarnessError if there are too many pairs for memory.
    """
    n = len(encodings[0])
    shares = _view_weights(len(encodings), part_weight)
    radius = np.float32(eps)  # distances are float32
    # a radius of 1 includes pairs without overlap, which the kernels never see
    kernels = compiled_for(encodings[0].columns, n, "overlaps") if radius < 1 else None
    if kernels is not None:
        ranges = row_ranges(n, 8 * torch.get_num_threads())  # later rows are cheaper
        totals = np.zeros(len(ranges), dtype=np.int64)
        fixed = (*_arrays(encodings), np.array(shares), radius, ONE, totals, _MAX_PAIRS)
        parts = in_threads(kernels.near_pairs, [(*fixed, me, *p) for me, p in enumerate(ranges)])
    else:
        parts = halving(
            lambda scratch: _near_pairs(encodings, float(radius), shares, _SHRINK // scratch),
            _SHRINK, "the Jaccard distance",
        )  # fmt: skip
    if sum(len(columns) for _, columns, _ in parts) > _MAX_PAIRS:
        raise HarnessError(
            f"more than {_MAX_PAIRS:,} pairs of images lie within eps {eps:g}",
            "Lower eps; if it is not high, the features have collapsed to a point.",
        )
    starts, columns, values = joined_rows(parts)
    del parts
    rows = np.repeat(np.arange(n, dtype=np.int32), np.diff(starts))
    both = np.concatenate([rows, columns]), np.concatenate([columns, rows])
    return csr_matrix((np.tile(values, 2), both), shape=(n, n))  # keeps explicit zeros


def _arrays(encodings: Sequence[Encoding]) -> tuple[np.ndarray, ...]:
    """The views' arrays, concatenated as in `kernels/overlaps.py`."""
    views = [((e.starts, e.columns, e.weights), e.by_column) for e in encodings]
    arrays: list[np.ndarray] = []
    for sides in zip(*views, strict=True):  # by row, then by column
        starts, entries, weights = zip(*sides, strict=True)
        shift = np.cumsum([0] + [len(part) for part in entries[:-1]])
        arrays.append(np.stack([s.numpy() + by for s, by in zip(starts, shift, strict=True)]))
        arrays += [torch.cat(entries).numpy(), torch.cat(weights).numpy()]
    return tuple(arrays)


def overlaps(encoding: Encoding, rows: Tensor, first: int = 0) -> Tensor:
    """s · 2^30 of `rows` (R,) with the images first … N−1: (R, N − first) int32."""
    width = len(encoding) - first
    starts, others, weights = encoding.by_column
    row, entry = spans(encoding.starts[rows], encoding.starts[rows + 1])
    column = encoding.columns[entry].long()
    owner, place = spans(starts[column], starts[column + 1])
    other = others[place].long()
    if first:
        there = other >= first
        owner, place, other = owner[there], place[there], other[there]
    common = torch.minimum(encoding.weights[entry][owner], weights[place])
    entry = (row * width - first)[owner].add_(other)
    return common.new_zeros(len(rows) * width).index_add_(0, entry, common).view(len(rows), width)


def _near_pairs(
    encodings: Sequence[Encoding], radius: float, shares: Sequence[float], shrink: int
) -> list[SparseRows]:
    """Pairs i < j within the radius, by blocks of rows: pairs per row, j, distances."""
    n, device = len(encodings[0]), encodings[0].columns.device
    terms = torch.stack([encoding.terms() for encoding in encodings]).amax(dim=0)
    found, pairs = [], 0
    for start, stop in row_blocks(terms, n, shrink):
        rows = torch.arange(start, stop, device=device)
        sums = [overlaps(encoding, rows, start).flatten() for encoding in encodings]
        # pairs without overlap in any view are at distance 1
        near = torch.stack(sums).amax(dim=0) if radius < 1 else torch.ones_like(sums[0])
        entries = near.nonzero()[:, 0]
        distances = _distances([overlap[entries] for overlap in sums], shares)
        row, column = entries // (n - start), entries % (n - start)
        keep = (distances <= radius) & (row < column)
        sizes = torch.bincount(row[keep], minlength=stop - start)
        columns = (column[keep] + start).to(torch.int32)
        found.append((sizes.cpu().numpy(), columns.cpu().numpy(), distances[keep].cpu().numpy()))
        pairs += len(columns)
        if pairs > _MAX_PAIRS:
            break
    return found


def _distances(overlaps: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Fixed-point overlaps of each view → fused distances, 1 − Σ_v w_v min(1, s_v / (2 − s_v))."""
    similarity = torch.zeros(overlaps[0].shape, dtype=torch.float64, device=overlaps[0].device)
    for overlap, weight in zip(overlaps, weights, strict=True):
        s = overlap.to(torch.float64)
        similarity += weight * (s / (2 * ONE - s)).clamp_(max=1)
    return (1 - similarity).to(torch.float32)
