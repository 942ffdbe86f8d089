"""From sparse rows of V to the Jaccard distances of the pairs that overlap.

Arrays of V views are concatenated: `starts` (V, N + 1) are the offsets of each view's rows in
`columns` and `weights` (E,); `by_starts`, `by_rows`, `by_weights` are the same by column.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.components.labelers.kernels.encoding import longer
from harness.core.kernels import loop


@loop
def _similarity(overlap: Any, one: Any) -> Any:
    """s / (2 − s), at most 1, of a fixed-point overlap."""
    s = np.float64(overlap)
    return min(s / (2.0 * one - s), 1.0)


@loop
def _add_overlaps(
    columns: Any, weights: Any, by_starts: Any, by_rows: Any, by_weights: Any,
    begin: Any, end: Any, first: Any, sums: Any, touched: Any, size: Any,
) -> Any:  # fmt: skip
    """Add a row's overlaps (its entries begin … end−1) with the images from `first` to `sums` (N,).

    Returns the new `size` of `touched`, the list of images whose sum is not 0.
    """
    for entry in range(begin, end):
        column, weight = columns[entry], weights[entry]
        for at in range(by_starts[column + 1] - 1, by_starts[column] - 1, -1):
            j = by_rows[at]
            if j < first:
                break
            common, before = min(weight, by_weights[at]), sums[j]
            touched[size] = j  # kept if this is their first overlap
            size += (before == 0) & (common > 0)
            sums[j] = before + common
    return size


@loop
def near_pairs(
    starts: Any, columns: Any, weights: Any, by_starts: Any, by_rows: Any, by_weights: Any,
    shares: Any, radius: Any, one: Any, totals: Any, most: Any, me: Any, start: Any, stop: Any,
) -> Any:  # fmt: skip
    """Pairs i < j within `radius`, i in start … stop−1, of V views, each with its share.

    Pairs that cannot reach the radius are skipped early: as s / (2 − s) ≤ s, the distance is at
    least 1 − Σ_v share_v s_v. `totals` (ranges,) counts the pairs of each range, of which this is
    number `me`; all ranges stop once their sum exceeds `most`.

    Returns:
        counts (stop − start,) int64, columns (P,) int32, distances (P,) float32.
    """
    views, n = starts.shape[0], starts.shape[1] - 1
    overlap = np.zeros((views, n), dtype=np.int32)
    touched = np.empty(views * n + 1, dtype=np.int32)  # at most once per view
    counts = np.zeros(stop - start, dtype=np.int64)
    found = np.empty(max(64, 16 * (stop - start)), dtype=np.int32)
    distances = np.empty(len(found), dtype=np.float32)
    floor = (1.0 - np.float64(radius) - 2e-7) * one  # distances are rounded to float32
    filled = 0
    for i in range(start, stop):
        size = 0
        for view in range(views):
            size = _add_overlaps(
                columns, weights, by_starts[view], by_rows, by_weights,
                starts[view, i], starts[view, i + 1], i + 1, overlap[view], touched, size,
            )  # fmt: skip
        begin = filled
        while len(found) - filled < size:
            found, distances = longer(found), longer(distances)
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
                # a second visit of j, from another view, finds zeros
                if similarity > 0 and distance <= radius:
                    found[filled] = j
                    distances[filled] = distance
                    filled += 1
            for view in range(views):
                overlap[view, j] = 0
        counts[i - start] = filled - begin
        totals[me] = filled
        if totals.sum() > most:
            break
    return counts, found[:filled].copy(), distances[:filled].copy()


@loop
def all_distances(
    starts: Any, columns: Any, weights: Any, by_starts: Any, by_rows: Any, by_weights: Any,
    shares: Any, one: Any, images: Any, first: Any, out: Any, start: Any, stop: Any,
) -> None:  # fmt: skip
    """Distances of images[start:stop] to the images first … N−1 into out (R, N − first) float32."""
    views, n = starts.shape[0], starts.shape[1] - 1
    overlap = np.zeros((views, n), dtype=np.int32)
    touched = np.empty(views * n + 1, dtype=np.int32)  # at most once per view
    for row in range(start, stop):
        i = images[row]
        size = 0
        for view in range(views):
            size = _add_overlaps(
                columns, weights, by_starts[view], by_rows, by_weights,
                starts[view, i], starts[view, i + 1], first, overlap[view], touched, size,
            )  # fmt: skip
        out[row] = np.float32(1)
        for place in range(size):
            j = touched[place]
            similarity = 0.0
            for view in range(views):
                similarity += shares[view] * _similarity(overlap[view, j], one)
                overlap[view, j] = 0
            if similarity > 0:  # the first visit of j
                out[row, j - first] = np.float32(1.0 - similarity)
