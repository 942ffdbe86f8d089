"""The ranking metrics as they are defined: one query and one image at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def rank_slowly(
    distances: np.ndarray,
    query_ids: Sequence[int],
    gallery_ids: Sequence[int],
    query_cams: Sequence[int] | None = None,
    gallery_cams: Sequence[int] | None = None,
    query_names: Sequence[str] | None = None,
    gallery_names: Sequence[str] | None = None,
) -> tuple[list[float], list[float], list[int]]:
    """AP, INP and first rank of each query (NaN, NaN and 0 without a match) from (Q, G) distances.

    Ties are broken by gallery index.
    """
    aps, inps, firsts = [], [], []
    for q, row in enumerate(distances):
        kept = []
        for g in np.argsort(row, kind="stable"):
            removed = gallery_ids[g] == -1
            if query_cams is not None and gallery_cams is not None:
                removed |= gallery_ids[g] == query_ids[q] and gallery_cams[g] == query_cams[q]
            elif query_names is not None and gallery_names is not None:
                removed |= gallery_names[g] == query_names[q]
            if not removed:
                kept.append(gallery_ids[g] == query_ids[q])
        correct, precisions = 0, []
        first = last = 0
        for position, match in enumerate(kept, start=1):
            if match:
                correct += 1
                precisions.append(correct / position)
                first, last = first or position, position
        aps.append(sum(precisions) / correct if correct else float("nan"))
        inps.append(correct / last if correct else float("nan"))
        firsts.append(first)
    return aps, inps, firsts
