"""From neighbor lists to the k-reciprocal encoding V, in sparse rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.core.kernels import loop


@loop
def half_sets(ranks: Any, half: Any, sizes: Any, sets: Any, start: Any, stop: Any) -> None:
    """Q(i, half) of rows start … stop−1 into `sets` (N, half), with their `sizes` (N,)."""
    for i in range(start, stop):
        size = 0
        for place in range(min(half, ranks.shape[1])):
            j = ranks[i, place]
            if _has(ranks[j, :half], i):
                sets[i, size] = j
                size += 1
        sizes[i] = size


@loop
def _has(row: Any, image: Any) -> Any:
    found: Any = 0
    for place in range(len(row)):
        found |= np.int32(row[place] == image)
    return found != 0


@loop(fastmath=True)
def _dot(x: Any, y: Any) -> Any:
    total = np.float32(0)
    for place in range(len(x)):
        total += x[place] * y[place]
    return total


@loop
def expanded_weights(
    features: Any, squares: Any, ranks: Any, near: Any, sizes: Any, sets: Any,
    scale: Any, power: Any, one: Any, start: Any, stop: Any,
) -> Any:  # fmt: skip
    """Rows start … stop−1 of V before query expansion, in fixed point with unit `one`.

    `near` (N, L) holds the squared distances of `ranks` (N, L), −1 where unknown; other distances
    are computed. Entries are in ascending order of image.

    Returns:
        sizes (stop − start,) int64, columns and weights (E,) int32.
    """
    n, length = ranks.shape
    mark = np.full(n, -1, dtype=np.int32)  # mark[j] == i: j is in Q(i)
    taken = np.full(n, -1, dtype=np.int32)  # taken[j] == i: j is in the expanded set of i
    counts = np.zeros(stop - start, dtype=np.int64)
    columns = np.empty(max(64, (stop - start) * length), dtype=np.int32)
    weights = np.empty_like(columns)
    costs = np.empty(length + length * sets.shape[1], dtype=np.float32)
    listed = np.full(n, -1, dtype=np.int32)  # listed[j] == i: known[j] is their distance
    known = np.empty(n, dtype=np.float32)
    filled = 0
    for i in range(start, stop):
        while len(columns) - filled < len(costs):
            columns, weights = longer(columns), longer(weights)
        members = columns[filled:]
        size = 0
        for place in range(length):
            j = ranks[i, place]
            known[j] = near[i, place]
            listed[j] = i
            if _has(ranks[j], i):
                mark[j] = i
                taken[j] = i
                members[size] = j
                size += 1
        for place in range(size):
            candidates = sets[members[place], : sizes[members[place]]]
            common = 0
            for j in candidates:
                common += mark[j] == i
            if 3 * common > 2 * len(candidates):
                for j in candidates:
                    if taken[j] != i:
                        taken[j] = i
                        members[size] = j
                        size += 1
        members = members[:size]
        members.sort()
        total = np.float32(0)
        for place in range(size):
            j = members[place]
            d = known[j] if listed[j] == i else _kept(ranks[j], near[j], i)
            if d < 0:
                d = squares[i] + squares[j] - np.float32(2) * _dot(features[i], features[j])
                d = max(d, np.float32(0))
            if power == 2:
                d *= d
            costs[place] = np.exp(-d / scale[i])
            total += costs[place]
        for place in range(size):
            weights[filled + place] = np.int32(np.rint(costs[place] / total * np.float32(one)))
        counts[i - start] = size
        filled += size
    return counts, columns[:filled].copy(), weights[:filled].copy()


@loop
def _kept(row: Any, distances: Any, image: Any) -> Any:
    """The distance to an image if it is among the neighbors in `row`, else −1."""
    for place in range(len(row)):
        if row[place] == image:
            return distances[place]
    return np.float32(-1)


@loop
def longer(array: Any) -> Any:
    """The array with as much space again."""
    twice = np.empty(2 * len(array), dtype=array.dtype)
    twice[: len(array)] = array
    return twice


@loop
def mean_rows(ranks: Any, starts: Any, columns: Any, weights: Any, start: Any, stop: Any) -> Any:
    """Rows start … stop−1 of V averaged over the images in ranks (N, k2), halves rounded up."""
    n, k2 = len(ranks), ranks.shape[1]
    total = np.zeros(n, dtype=np.int64)
    seen = np.full(n, -1, dtype=np.int32)
    counts = np.zeros(stop - start, dtype=np.int64)
    out_columns = np.empty(max(64, 4 * (starts[stop] - starts[start])), dtype=np.int32)
    out_weights = np.empty_like(out_columns)
    filled = 0
    for i in range(start, stop):
        most = 0
        for j in ranks[i]:
            most += starts[j + 1] - starts[j]
        while len(out_columns) - filled < most:
            out_columns, out_weights = longer(out_columns), longer(out_weights)
        begin = filled
        for j in ranks[i]:
            for entry in range(starts[j], starts[j + 1]):
                column = columns[entry]
                if seen[column] != i:
                    seen[column] = i
                    out_columns[filled] = column
                    filled += 1
                total[column] += weights[entry]
        out_columns[begin:filled].sort()
        for entry in range(begin, filled):
            out_weights[entry] = (total[out_columns[entry]] + k2 // 2) // k2
            total[out_columns[entry]] = 0
        counts[i - start] = filled - begin
    return counts, out_columns[:filled].copy(), out_weights[:filled].copy()


@loop
def transposed(starts: Any, columns: Any, weights: Any) -> Any:
    """The same entries by column: starts (N + 1,), rows ascending within a column, weights."""
    n = len(starts) - 1
    begins = np.zeros(n + 1, dtype=np.int64)
    for column in columns:
        begins[column + 1] += 1
    for column in range(n):
        begins[column + 1] += begins[column]
    place = begins[:-1].copy()
    rows = np.empty_like(columns)
    values = np.empty_like(weights)
    for i in range(n):
        for entry in range(starts[i], starts[i + 1]):
            at = place[columns[entry]]
            place[columns[entry]] = at + 1
            rows[at] = i
            values[at] = weights[entry]
    return begins, rows, values
