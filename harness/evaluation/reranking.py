"""k-reciprocal re-ranking of query–gallery distances at test time.

Zhong, Zheng, Cao, Li, *Re-ranking Person Re-identification with k-reciprocal Encoding*, CVPR 2017:
d* = (1 − λ) d_J + λ d̃ (eq. 12). Query and gallery images are encoded together, but as sparse rows,
and the final distances come in blocks of queries: there is no (Q + G)² matrix, only the plain Q × G
one, which the neighbor search computes anyway.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.components.labelers.encoding import Encoding, encode
from harness.components.labelers.jaccard import distance_rows
from harness.components.labelers.neighbours import compiled_for, search
from harness.components.labelers.sparse import row_blocks
from harness.core.errors import ConfigError, HarnessError
from harness.evaluation.distances import first_duplicates

# d² as a power of ||x − y||²: the paper squares the Euclidean distance, the evaluators of published
# methods square a distance that is squared already
_POWERS = {"squared": 2, "euclidean": 1}

_ROWS = 512  # queries per block with compiled kernels


def rerank_blocks(
    query_features: Tensor, gallery_features: Tensor, k1: int = 20, k2: int = 6, lam: float = 0.3,
    distance: str = "squared",
) -> Iterator[tuple[int, Tensor]]:  # fmt: skip
    """Re-ranked distances of queries (Q, D) to the gallery (G, D), both L2-normalized, in blocks.

    With d the distance named, d̃(i, ·) = d(i, ·)² / max d(i, ·)² over query and gallery together;
    neighbor lists have k1 + 1 entries, the image itself included, half lists round(k1/2) + 1.

    Args:
        k1, k2: as in the paper. lam: λ, the share of the plain distance.
        distance: `squared` takes the squared Euclidean distance as d, as the evaluators of SpCL,
            MMT, Cluster Contrast and MSKD do; `euclidean` is the paper's.

    Returns:
        An iterator of (first query of the block, distances (b, G) float32).

    Raises:
        ConfigError: k1, k2, lam or distance out of range.
        HarnessError: features of unequal size, none at all, or not finite.
    """
    if not 1 <= k2 <= k1:
        problem = f"k1 {k1} and k2 {k2} are out of range: 1 ≤ k2 ≤ k1."
        raise ConfigError(problem, "The usual values are 20 and 6.")
    if not 0 <= lam <= 1:
        problem = f"lambda {lam} is out of range: 0 ≤ lambda ≤ 1."
        raise ConfigError(problem, "The usual value is 0.3.")
    if distance not in _POWERS:
        raise ConfigError(f"unknown distance '{distance}'", f"Use one of {', '.join(_POWERS)}.")
    if query_features.dim() != 2 or query_features.shape[1:] != gallery_features.shape[1:]:
        raise HarnessError(
            f"query features {tuple(query_features.shape)} and gallery features "
            f"{tuple(gallery_features.shape)} are not (Q, D) and (G, D)"
        )
    if not len(query_features) or not len(gallery_features):
        raise HarnessError("re-ranking needs at least one query and one gallery image")
    features = torch.cat([query_features, gallery_features]).detach().float()
    if not bool(torch.isfinite(features).all()):
        raise HarnessError("features are not finite", "Check the checkpoint that made them.")
    return _blocks(features, len(query_features), k1, k2, lam, _POWERS[distance])


def _blocks(
    features: Tensor, queries: int, k1: int, k2: int, lam: float, power: int
) -> Iterator[tuple[int, Tensor]]:
    found = search(features, k1 + 1, farthest=True, keep=queries)
    plain = found.kept
    assert found.farthest is not None and plain is not None
    # where all images are the same, d̃ is 0, not 0/0
    scale = found.farthest.pow(power).clamp_(min=torch.finfo(torch.float32).tiny)
    # products of duplicates may be rounded differently: take those of the first
    first, first_column = first_duplicates(features), first_duplicates(features[queries:])
    scale = scale if first is None else scale[first]
    encoding = encode(features, found.ranks, k1, k2, scale, power, found.distances)
    for start, stop in _row_ranges(encoding, queries):
        rows = torch.arange(start, stop, device=features.device)
        jaccard = distance_rows([encoding], rows, first=queries)
        squared = plain[start:stop] if first_column is None else plain[start:stop, first_column]
        normalized = squared.pow_(power).div_(scale[rows, None])
        yield start, jaccard.mul_(1 - lam).add_(normalized, alpha=lam)


def _row_ranges(encoding: Encoding, queries: int) -> Iterator[tuple[int, int]]:
    """Blocks of queries: of one size for compiled kernels, else by the memory that they take."""
    if compiled_for(encoding.columns, len(encoding), "overlaps") is None:
        yield from row_blocks(encoding.terms()[:queries], len(encoding) - queries)
    else:
        yield from ((i, min(i + _ROWS, queries)) for i in range(0, queries, _ROWS))
