"""The labels of SpCL and BUC with loops and sets, as defined."""

from __future__ import annotations

import numpy as np


def self_paced(
    normal: np.ndarray, tight: np.ndarray, loose: np.ndarray, threshold: float | None
) -> tuple[list[int], float | None]:
    """Labels with gaps, and the threshold, from DBSCAN's labels (-1 for outliers)."""

    def numbered(labels: np.ndarray) -> list[int]:
        next_label, out = max([-1, *labels]) + 1, []
        for label in labels:
            out.append(int(label) if label >= 0 else next_label)
            next_label += label < 0
        return out

    def members(labels: list[int], image: int) -> set[int]:
        return {other for other, label in enumerate(labels) if label == labels[image]}

    def difference(a: set[int], b: set[int]) -> float:
        return 1 - len(a & b) / len(a | b)

    first, inner, outer = numbered(normal), numbered(tight), numbered(loose)
    images = range(len(first))
    compact = [difference(members(first, i), members(inner, i)) for i in images]
    independent = [difference(members(first, i), members(outer, i)) for i in images]
    groups = {label: [i for i in images if first[i] == label] for label in sorted(set(first))}
    if threshold is None:
        values = sorted(min(independent[i] for i in g) for g in groups.values() if len(g) > 1)
        if values:
            threshold = values[min(len(values) - 1, round(0.9 * len(values)))]
    labels, fresh = [], len(groups)
    for i in images:
        group = groups[first[i]]
        kept = threshold is None or min(independent[j] for j in group) <= threshold
        if kept and compact[i] <= min(compact[j] for j in group):
            labels.append(first[i])
        else:
            labels.append(fresh)
            fresh += 1
    return labels, threshold


def merge(features: np.ndarray, labels: np.ndarray, merges: int, size_penalty: float) -> list[int]:
    """One round of merging, going through all pairs in order."""
    n = len(labels)
    sizes = np.bincount(labels)
    x = features.astype(np.float64)
    pairs = sorted(
        (
            float(
                ((x[i] - x[j]) ** 2).sum() + size_penalty * (sizes[labels[i]] + sizes[labels[j]])
            ),
            i,
            j,
        )
        for i in range(n)
        for j in range(i + 1, n)
        if labels[i] != labels[j]
    )
    now = [int(label) for label in labels]
    done = 0
    for _, i, j in pairs:
        if done == merges:
            break
        if now[i] != now[j]:
            low, high = sorted((now[i], now[j]))
            now = [low if label == high else label for label in now]
            done += 1
    used = sorted(set(now))
    return [used.index(label) for label in now]
