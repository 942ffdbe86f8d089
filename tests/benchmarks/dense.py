"""The label step and evaluation in the usual way: dense N×N arrays, a loop over images, sorting.

Optimized within that approach, so that ratios to it are meaningful: one matrix product, top-k
instead of a full sort for labels, float32 throughout, sets as masks. Kept from the published code:
a dense V, the overlap of each image with all others, a dense distance matrix for scikit-learn's
DBSCAN, an argsort of the whole query × gallery matrix.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import DBSCAN
from torch import Tensor


def _encoding(cost: np.ndarray, ranks: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """V (N, N) float32 from costs (N, N) and neighbor lists (N, L)."""
    n = len(ranks)
    half = round(k1 / 2) + 1
    in_full = np.zeros((n, n), dtype=bool)
    np.put_along_axis(in_full, ranks, True, axis=1)
    in_half = np.zeros((n, n), dtype=bool)
    np.put_along_axis(in_half, ranks[:, :half], True, axis=1)
    v = np.zeros((n, n), dtype=np.float32)
    halves = [row[in_half[row, i]] for i, row in enumerate(ranks[:, :half])]
    for i in range(n):
        members = ranks[i][in_full[ranks[i], i]]
        inside = np.zeros(n, dtype=bool)
        inside[members] = True
        expanded = inside.copy()
        for j in members:
            other = halves[j]
            if 3 * np.count_nonzero(inside[other]) > 2 * len(other):
                expanded[other] = True
        chosen = np.flatnonzero(expanded)
        weights = np.exp(-cost[i, chosen])
        v[i, chosen] = weights / weights.sum()
    if k2 > 1:
        v = np.stack([v[ranks[i, :k2]].mean(axis=0, dtype=np.float32) for i in range(n)])
    return v


def _jaccard(v: np.ndarray, rows: int) -> np.ndarray:
    """Distances (rows, N) of the first rows, with the inverted index of the published code."""
    n = len(v)
    holders = [np.flatnonzero(column) for column in np.ascontiguousarray(v.T)]
    out = np.empty((rows, n), dtype=np.float32)
    for i in range(rows):
        overlap = np.zeros(n, dtype=np.float32)
        for j in np.flatnonzero(v[i]):
            others = holders[j]
            overlap[others] += np.minimum(v[i, j], v[others, j])
        out[i] = 1 - overlap / (2 - overlap)
    return np.maximum(out, 0, out=out)


def distances(features: Tensor, k1: int, k2: int) -> np.ndarray:
    """Jaccard distances (N, N) of unit rows (N, D)."""
    products = features @ features.T
    ranks = products.topk(k1, dim=1).indices
    itself = torch.arange(len(features))
    wrong = (ranks[:, 0] != itself).nonzero()[:, 0]
    for i in wrong.tolist():  # rounding or a duplicate put another image first
        others = ranks[i][ranks[i] != i][: k1 - 1]
        ranks[i] = torch.cat([itself[i : i + 1], others])
    cost = products.mul_(-2).add_(2).clamp_(min=0).numpy()
    return _jaccard(_encoding(cost, ranks.numpy(), k1, k2), len(features))


def labels(features: Tensor, k1: int, k2: int, eps: float, min_samples: int) -> np.ndarray:
    """DBSCAN's labels (N,) on the dense distance matrix."""
    matrix = distances(features, k1, k2)
    return DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(matrix).labels_


def metrics(
    query: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor,
    query_cams: Tensor, gallery_cams: Tensor, distance: np.ndarray | None = None,
) -> tuple[float, float]:  # fmt: skip
    """mAP and Rank-1 by sorting the whole matrix."""
    matrix = (2 - 2 * query @ gallery.T).numpy() if distance is None else distance
    order = torch.from_numpy(np.argsort(matrix, axis=1))
    precisions, first = [], []
    for q in range(len(query_ids)):
        ids, cams = gallery_ids[order[q]], gallery_cams[order[q]]
        right = ids == query_ids[q]
        kept = right[~(right & (cams == query_cams[q]))]
        places = kept.nonzero()[:, 0] + 1
        if len(places):
            hits = torch.arange(1, len(places) + 1)
            precisions.append((hits / places).double().mean())
            first.append(places[0] == 1)
    return float(torch.stack(precisions).mean()), float(torch.stack(first).double().mean())


def reranked(query: Tensor, gallery: Tensor, k1: int, k2: int, lam: float) -> np.ndarray:
    """k-reciprocal re-ranked distances (Q, G); squares are squared again, as published."""
    x = torch.cat([query, gallery])
    d = (2 - 2 * x @ x.T).clamp_(min=0).square_()
    d /= d.amax(dim=1, keepdim=True)
    matrix = d.numpy()
    ranks = d.topk(k1 + 1, dim=1, largest=False, sorted=True).indices.numpy()
    q = len(query)
    jaccard = _jaccard(_encoding(matrix, ranks, k1, k2), q)
    return (1 - lam) * jaccard[:, q:] + lam * matrix[:q, q:]
