"""From sparse rows of V to the Jaccard distances of the pairs that overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_compiled = njit(nogil=True, cache=True, error_model="numpy")


@_compiled
def _similarity(overlap: Any, one: Any) -> Any:
    """s / (2 − s), at most 1, of a fixed-point overlap."""
    s = np.float64(overlap)
    return min(s / (2.0 * one - s), 1.0)


@_compiled
def near_pairs(
    starts: Any, columns: Any, weights: Any, by_starts: Any, by_rows: Any, by_weights: Any,
    shares: Any, radius: Any, one: Any, most: Any, start: Any, stop: Any,
) -> Any:  # fmt: skip
    """Pairs i < j within `radius`, i in start … stop−1; arrays of V views, each with its share.

    Overlaps are summed for the images that share anything with i, and dropped at once where they
    cannot reach the radius: as s / (2 − s) ≤ s, the distance is at least 1 − Σ_v share_v s_v.

    Returns:
        counts (stop − start,) int64, columns (P,) int32, distances (P,) float32; P > most means
        that the search was given up.
    """
    views, n = len(columns), len(starts[0]) - 1
    overlap = np.zeros((views, n), dtype=np.int32)
    touched = np.empty(views * n + 1, dtype=np.int32)  # once for each view at most
    counts = np.zeros(stop - start, dtype=np.int64)
    found = np.empty(max(64, 16 * (stop - start)), dtype=np.int32)
    distances = np.empty(len(found), dtype=np.float32)
    floor = (1.0 - np.float64(radius)) * one * (1 - 1e-6)
    filled = 0
    for i in range(start, stop):
        size = 0
        for view in range(views):
            sums = overlap[view]
            rows, values = by_rows[view], by_weights[view]
            for entry in range(starts[view][i], starts[view][i + 1]):
                column, weight = columns[view][entry], weights[view][entry]
                for at in range(by_starts[view][column + 1] - 1, by_starts[view][column] - 1, -1):
                    j = rows[at]
                    if j <= i:
                        break
                    common, before = min(weight, values[at]), sums[j]
                    touched[size] = j  # stays if this is the first thing that they share
                    size += (before == 0) & (common > 0)
                    sums[j] = before + common
        begin = filled
        if len(found) - filled < size:
            longer = len(found) + max(size, len(found))
            old, old_distances = found, distances
            found = np.empty(longer, dtype=np.int32)
            distances = np.empty(longer, dtype=np.float32)
            found[:filled] = old[:filled]
            distances[:filled] = old_distances[:filled]
        for place in range(size):
            j = touched[place]
            bound = 0.0
            for view in range(views):
                bound += shares[view] * overlap[view, j]
            if bound >= floor:
                similarity = 0.0
                for view in range(views):
                    similarity += shares[view] * _similarity(overlap[view, j], one)
                distance = np.float32(1.0 - similarity)
                if distance <= radius:
                    found[filled] = j
                    distances[filled] = distance
                    filled += 1
            for view in range(views):
                overlap[view, j] = 0
        counts[i - start] = filled - begin
        if filled > most:
            break
    return counts, found[:filled].copy(), distances[:filled].copy()


@_compiled
def all_distances(
    starts: Any, columns: Any, weights: Any, by_starts: Any, by_rows: Any, by_weights: Any,
    shares: Any, one: Any, images: Any, first: Any, out: Any, start: Any, stop: Any,
) -> None:  # fmt: skip
    """Distances of images[start:stop] to the images first … N−1 into out (R, N − first) float32."""
    views, n = len(columns), len(starts[0]) - 1
    overlap = np.zeros((views, n), dtype=np.int32)
    touched = np.empty(views * n + 1, dtype=np.int32)  # once for each view at most
    for row in range(start, stop):
        i = images[row]
        size = 0
        for view in range(views):
            sums = overlap[view]
            rows, values = by_rows[view], by_weights[view]
            for entry in range(starts[view][i], starts[view][i + 1]):
                column, weight = columns[view][entry], weights[view][entry]
                for at in range(by_starts[view][column + 1] - 1, by_starts[view][column] - 1, -1):
                    j = rows[at]
                    if j < first:
                        break
                    common, before = min(weight, values[at]), sums[j]
                    touched[size] = j
                    size += (before == 0) & (common > 0)
                    sums[j] = before + common
        out[row] = np.float32(1)
        for place in range(size):
            j = touched[place]
            similarity = 0.0
            for view in range(views):
                similarity += shares[view] * _similarity(overlap[view, j], one)
                overlap[view, j] = 0
            if similarity > 0:  # the first time that j comes up
                out[row, j - first] = np.float32(1.0 - similarity)
