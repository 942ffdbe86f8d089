"""Evaluation kernels, compiled by numba: the ranks of each query's correct images."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.core.kernels import loop

#: gallery images per pass: their distances stay in the first-level cache
_GROUP = 4096
#: with more correct images than this, look each gallery image up among them instead
_MANY = 96


@loop
def score_rows(
    rows: Any, products: Any, first: Any, begin: Any, end: Any, by_identity: Any, junk: Any,
    query_cams: Any, gallery_cams: Any, itself: Any, ap: Any, inp: Any, rank: Any,
    start: Any, stop: Any,
) -> None:  # fmt: skip
    """AP, INP and first rank of the queries first + start … first + stop − 1.

    Args:
        rows: (b, G) float32, x·y of unit rows if `products`, else distances ≥ 0; overwritten.
        begin, …, itself: see `MatchIndex`; cameras and itself may be empty.
        ap, inp, rank: (Q,) results; entries of queries without a correct image are not written.
    """
    infinity = np.float32(np.inf)
    cameras = len(gallery_cams) > 0
    for place in range(start, stop):
        row = rows[place]
        bits = row.view(np.int32)
        if products:
            for g in range(len(row)):
                d = np.float32(2) - np.float32(2) * row[g]
                row[g] = d if d > np.float32(0) else np.float32(0)
        query = first + place
        for g in junk:
            row[g] = infinity
        if len(itself) and itself[query] >= 0:
            row[itself[query]] = infinity
        correct = by_identity[begin[query] : end[query]]
        keys = np.empty(len(correct), dtype=np.int64)
        size = 0
        for g in correct:
            if cameras and gallery_cams[g] == query_cams[query]:
                row[g] = infinity
            elif row[g] < infinity:
                keys[size] = (np.int64(bits[g]) << 32) | g
                size += 1
        if size == 0:
            continue
        keys = np.sort(keys[:size])
        ranks = _counted(row, keys) if size <= _MANY else _looked_up(row, keys)
        total = 0.0
        for found in range(size):
            total += (found + 1) / ranks[found]
        ap[query] = total / size
        inp[query] = size / ranks[size - 1]
        rank[query] = ranks[0]


@loop
def _counted(row: Any, keys: Any) -> Any:
    """The ranks of sorted keys, counting the images before each with vector instructions."""
    ranks = np.ones(len(keys), dtype=np.int64)
    for first in range(0, len(row), _GROUP):
        group = row[first : first + _GROUP]
        for place in range(len(keys)):
            image = keys[place] & 0xFFFFFFFF
            own = row[image]
            border = min(max(image - first, 0), len(group))
            ranks[place] += _not_above(group[:border], own) + _below(group[border:], own)
    return ranks


@loop
def _below(group: Any, distance: Any) -> Any:
    count = np.int32(0)
    for place in range(len(group)):
        count += np.int32(group[place] < distance)
    return count


@loop
def _not_above(group: Any, distance: Any) -> Any:
    count = np.int32(0)
    for place in range(len(group)):
        count += np.int32(group[place] <= distance)
    return count


@loop
def _looked_up(row: Any, keys: Any) -> Any:
    """The same ranks by a binary search for each image among the keys."""
    bits = row.view(np.int32)
    counts = np.zeros(len(keys) + 1, dtype=np.int64)
    last = keys[-1]
    for image in range(len(row)):
        key = (np.int64(bits[image]) << 32) | image
        if key <= last:
            counts[np.searchsorted(keys, key)] += 1
    return np.cumsum(counts)[: len(keys)]
