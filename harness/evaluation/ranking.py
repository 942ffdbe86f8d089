"""mAP, CMC and mINP, computed exactly without sorting and without a query × gallery matrix.

The standard protocol (Zheng et al., *Scalable Person Re-identification: A Benchmark*, ICCV 2015):
for each query, gallery images of the same identity *and* camera and all junk (identity -1) are
removed. Queries without a correct image are skipped and counted.

With m correct images at ranks r_1 < … < r_m among the G′ gallery images that remain:

- AP = 1/m Σ_j j / r_j (scikit-learn's average precision), mAP its mean over the valid queries;
- CMC(k) = share of valid queries with r_1 ≤ k;
- INP = m / r_m, mINP its mean (Ye et al., *Deep Learning for Person Re-identification: A Survey
  and Outlook*, TPAMI 2021, eq. 3).

Only the ranks of the correct images are needed. The bits of non-negative float32 numbers sort as
the numbers do, so `bits << 32 | gallery index` is one integer that orders a row, with ties broken
by index. Counting how many of these keys come before each correct image gives r_1 … r_m exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import HarnessError
from harness.core.host_memory import halving
from harness.core.kernels import in_threads, kernels, row_ranges
from harness.core.metrics import METRICS
from harness.evaluation.distances import (
    Blocks,
    check_normalized,
    checked,
    distance_blocks,
    product_blocks,
)
from harness.evaluation.ground_truth import GroundTruth, MatchIndex

#: the k of the Rank-k metrics
RANKS = tuple(int(key.removeprefix("rank")) for key in METRICS if key.startswith("rank"))
#: with fewer query–gallery pairs than this, compiled kernels do not pay for loading them
WORTH_COMPILING = 1 << 21

_REMOVED = 0x7F800000 << 32  # the key of +inf: above every finite distance
_NONE = torch.iinfo(torch.int64).max  # padding, above every key
_CHUNK = 1 << 22  # matrix entries counted at once: their keys take 8 bytes each


@dataclass(frozen=True, eq=False)
class RankingResult:
    """Metrics of a ranking. All are fractions, 0 … 1; only `as_dict` gives percent.

    ap: (Q,) float64, average precision per query, NaN where the query is skipped.
    inp: (Q,) float64, inverse negative penalty per query, NaN where skipped.
    first_match_rank: (Q,) int64 from 1, 0 where skipped.
    gallery: number of gallery images that were ranked, without junk.
    """

    ap: np.ndarray
    inp: np.ndarray
    first_match_rank: np.ndarray
    gallery: int

    @property
    def valid(self) -> np.ndarray:
        """(Q,) bool: the queries that have a correct image to find."""
        return self.first_match_rank > 0

    @property
    def skipped_queries(self) -> int:
        """Number of queries without a correct image in the gallery."""
        return int((~self.valid).sum())

    @property
    def mAP(self) -> float:
        """Mean average precision over the valid queries."""
        return float(self.ap[self.valid].mean())

    def cmc_at(self, k: int) -> float:
        """Share of the valid queries whose first correct image is within the top k."""
        return float((self.first_match_rank[self.valid] <= k).mean())

    def per_query(self) -> dict[str, np.ndarray]:
        """The arrays of the valid queries that `METRICS` are computed from."""
        arrays = {"ap": self.ap, "inp": self.inp, "first_match_rank": self.first_match_rank}
        return {name: array[self.valid] for name, array in arrays.items()}

    def as_dict(self) -> dict[str, float | int]:
        """All `METRICS` in percent, and the counts, for JSON."""
        return {
            **{key: metric.percent(self.per_query()) for key, metric in METRICS.items()},
            "queries": len(self.ap),
            "queries_without_match": self.skipped_queries,
            "gallery": self.gallery,
        }


@torch.no_grad()
def rank(
    query_features: Tensor | None, gallery_features: Tensor | None, ground_truth: GroundTruth, *,
    distances: Blocks | None = None, block: int = 512,
) -> RankingResult:  # fmt: skip
    """Rank the gallery for each query and measure the ranking.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), L2-normalized. The computation runs on
            the device of the query features, in float32. Not used if `distances` is given.
        distances: other distances than the Euclidean (re-ranked ones): pairs of (first row,
            (b, G) non-negative tensor) that together hold every query once, in any order.
        block: rows of the distance matrix that exist at a time.

    Raises:
        HarnessError: shapes that do not match, features that are not finite or not normalized,
            distances that are negative, not finite or incomplete, or no query with a correct image.
    """
    matches = MatchIndex.of(ground_truth)
    queries, gallery = len(matches.query_ids), len(matches.gallery_ids)
    if block < 1:
        raise HarnessError(f"block {block} must be 1 or more")
    if distances is None:
        if query_features is None or gallery_features is None:
            raise HarnessError("neither features nor distances were given")
        x, y = query_features, gallery_features
        check_normalized("query", x, queries)
        check_normalized("gallery", y, gallery)
        if x.shape[1] != y.shape[1]:
            raise HarnessError(
                f"query features have {x.shape[1]} dimensions, gallery features {y.shape[1]}"
            )
        # compiled kernels turn products into distances themselves
        compiled = _compiled(queries * gallery) if x.device.type == "cpu" else None
        blocks = distance_blocks if compiled is None else product_blocks
        ap, inp, first = halving(
            lambda rows: _score(matches, blocks(x, y, rows), compiled, products=True),
            *(block, "evaluation"),
        )
    else:
        compiled = _compiled(queries * gallery)
        ap, inp, first = _score(matches, checked(distances, queries, gallery), compiled)
    if not first.any():
        raise matches.no_valid_query()
    return RankingResult(ap, inp, first, int((matches.gallery_ids >= 0).sum()))


def _compiled(pairs: int) -> ModuleType | None:
    return kernels("harness.evaluation.kernels") if pairs >= WORTH_COMPILING else None


def _score(
    matches: MatchIndex, blocks: Blocks, compiled: ModuleType | None, products: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AP, INP and first rank of all queries, (Q,) each; NaN, NaN and 0 where skipped.

    Args:
        blocks: pairs of (first row, (b, G) distances). products: for compiled kernels, blocks hold
            x·y of unit rows instead.
    """
    queries = len(matches.query_ids)
    ap, inp = np.full(queries, np.nan), np.full(queries, np.nan)
    first = np.zeros(queries, dtype=np.int64)
    chunk = max(1, _CHUNK // max(1, len(matches.gallery_ids)))
    for start, rows in blocks:
        if compiled is not None and rows.device.type == "cpu":
            fixed = (rows.numpy(), products, start, *matches.arrays(), ap, inp, first)
            parts = row_ranges(len(rows), 4 * torch.get_num_threads())
            in_threads(compiled.score_rows, [(*fixed, *part) for part in parts])
            continue
        matches = matches.to(rows.device)
        for part in rows.split(chunk):
            here = slice(start, start + len(part))
            start += len(part)
            ap[here], inp[here], first[here] = _scores(*_match_ranks(part, matches, here))
    return ap, inp, first


def _match_ranks(
    distances: Tensor, matches: MatchIndex, here: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of the correct images of some queries, whose rows are `here`.

    Distances (b, G) float32, finite and ≥ 0, are overwritten.

    Returns (b, M) ranks from 1, ascending, and (b,) how many are real; the rest is padding.
    """
    device = distances.device
    begin, end = matches.begin[here, None], matches.end[here, None]
    width = int((end - begin).max())
    column = begin + torch.arange(width, device=device)
    inside = column < end
    same = matches.by_identity[column.clamp_(max=len(matches.by_identity) - 1)]

    # removed images get an infinite distance, behind every correct image
    if len(matches.junk):
        distances.index_fill_(1, matches.junk, torch.inf)
    if matches.query_cams is not None and matches.gallery_cams is not None:
        seen = inside & (matches.gallery_cams[same] == matches.query_cams[here, None])
        distances[seen.nonzero()[:, 0], same[seen]] = torch.inf
    if matches.itself is not None:
        itself = matches.itself[here]
        distances[(itself >= 0).nonzero()[:, 0], itself[itself >= 0]] = torch.inf

    keys = distances.view(torch.int32).to(torch.int64).bitwise_left_shift_(32)
    keys.bitwise_or_(torch.arange(distances.shape[1], device=device))
    correct = keys.gather(1, same)
    correct.masked_fill_(~inside | (correct >= _REMOVED), _NONE)
    correct = correct.sort(dim=1).values

    # slot: how many correct images come before this entry; an entry in slot s counts towards the
    # ranks of the correct images s, s + 1, …
    slots = torch.searchsorted(correct, keys.contiguous())
    slots += (width + 1) * torch.arange(len(slots), device=device)[:, None]
    counts = torch.bincount(slots.flatten(), minlength=len(slots) * (width + 1))
    match_ranks = counts.view(-1, width + 1).cumsum(dim=1)[:, :width]
    return match_ranks.cpu().numpy(), (correct < _NONE).sum(dim=1).cpu().numpy()


def _scores(ranks: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AP, INP and first rank (NaN, NaN and 0 without a match) from (b, M) ranks, (b,) counts."""
    place = np.arange(1, ranks.shape[1] + 1)
    some = found > 0
    ap, inp, first = np.full(len(found), np.nan), np.full(len(found), np.nan), np.zeros(len(found))
    if some.any():
        ranks, found = ranks[some], found[some]
        precision = np.where(place <= found[:, None], place / ranks, 0.0)
        ap[some] = precision.sum(axis=1) / found
        inp[some] = found / ranks[np.arange(len(found)), found - 1]
        first[some] = ranks[:, 0]
    return ap, inp, first
