"""The k-reciprocal Jaccard distance with loops, sets and dense float64 arrays, as defined."""

from __future__ import annotations

import numpy as np


def squared_distances(features: np.ndarray) -> np.ndarray:
    """(N, D) to (N, N) float64."""
    x = features.astype(np.float64)
    return ((x[:, None] - x[None]) ** 2).sum(-1)


def neighbours(distances: np.ndarray, k: int) -> np.ndarray:
    """The k nearest of each row: the image itself, then by distance, then by number."""
    order = []
    for i, row in enumerate(distances):
        others = sorted((d, j) for j, d in enumerate(row) if j != i)
        order.append([i, *(j for _, j in others)][:k])
    return np.array(order)


def encoding(cost: np.ndarray, ranks: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """V (N, N): softmax of −cost over expanded sets, then the mean over the first k2 neighbors."""
    n = len(cost)

    def reciprocal(i: int, length: int) -> set[int]:
        return {int(j) for j in ranks[i, :length] if i in ranks[j, :length]}

    v = np.zeros((n, n))
    for i in range(n):
        full = reciprocal(i, ranks.shape[1])
        expanded = set(full)
        for j in full:
            half = reciprocal(j, round(k1 / 2) + 1)
            if 3 * len(half & full) > 2 * len(half):
                expanded |= half
        members = sorted(expanded)
        weights = np.exp(-cost[i, members])
        v[i, members] = weights / weights.sum()
    return np.stack([v[ranks[i, :k2]].mean(axis=0) for i in range(n)])


def jaccard(v: np.ndarray) -> np.ndarray:
    """Distances (N, N) of the rows of V."""
    s = np.minimum(v[:, None], v[None]).sum(-1)
    return np.maximum(0, 1 - s / (2 - s))


def distance(features: np.ndarray, k1: int, k2: int) -> np.ndarray:
    """The clustering methods' distance (N, N) of unit rows (N, D)."""
    d = squared_distances(features)
    return jaccard(encoding(d, neighbours(d, k1), k1, k2))


def rerank(
    query: np.ndarray, gallery: np.ndarray, k1: int, k2: int, lam: float, power: int
) -> np.ndarray:
    """Re-ranked distances (Q, G); power 1 from Euclidean distances, 2 from squared ones."""
    d = squared_distances(np.concatenate([query, gallery]))
    ranks = neighbours(d, k1 + 1)
    d = d**power
    d = d / np.maximum(d.max(axis=1, keepdims=True), 1e-30)
    mixed = (1 - lam) * jaccard(encoding(d, ranks, k1, k2)) + lam * d
    return mixed[: len(query), len(query) :]
