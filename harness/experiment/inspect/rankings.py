"""Ranked lists of a network's queries, as the protocol ranks them.

Junk is left out, and so are images of the query's identity and camera (in data without cameras, the
query image itself).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from harness.core.errors import ConfigError
from harness.evaluation.distances import distance_blocks
from harness.evaluation.evaluator import Evaluator
from harness.experiment.inspect.trained_stage import TrainedStage
from harness.results.figures.ranked import Ranking

CHOICES = ("worst", "best", "random")


def rankings(
    stage: TrainedStage, queries: str = "worst", count: int = 8, top: int = 10, seed: int = 0
) -> list[Ranking]:
    """The `top` nearest gallery images of some queries.

    Args:
        queries: worst, best or random; or indices or file names of queries, separated by commas.
        count: how many of worst, best, random. seed: of random.

    Raises:
        ConfigError: no test part, no weights, or no such query.
    """
    stage.backbone  # noqa: B018 (refuse missing weights before images are decoded)
    evaluator = stage.test
    assert evaluator.query_cache is not None and evaluator.gallery_cache is not None
    query = stage.features(evaluator.query_cache.images, "query", views=1)[:, 0]
    gallery = stage.features(evaluator.gallery_cache.images, "gallery", views=1)[:, 0]
    result = evaluator.score(query, gallery)
    chosen = choose(evaluator, result.ap, queries, count, seed)
    distances = _distances(evaluator, query, gallery, chosen)
    return [
        Ranking(i, float(result.ap[i]), int(result.first_match_rank[i]),
                *nearest(evaluator, i, distances[i], top))
        for i in chosen
    ]  # fmt: skip


def choose(evaluator: Evaluator, ap: np.ndarray, queries: str, count: int, seed: int) -> list[int]:
    """Indices of queries with a correct match, or of the queries that are named.

    Raises:
        ConfigError: there is no such query.
    """
    valid = np.flatnonzero(np.isfinite(ap))
    if queries == "random":
        count = min(count, len(valid))
        return [int(i) for i in np.random.default_rng(seed).choice(valid, count, replace=False)]
    if queries in CHOICES:
        order = valid[np.argsort(ap[valid], kind="stable")][:: 1 if queries == "worst" else -1]
        return [int(index) for index in order[:count]]
    images = evaluator.data.query.images
    names = {images.name(i): i for i in range(len(images))}
    names |= {name.rsplit("/", 1)[-1]: i for name, i in names.items()}
    found = []
    for word in queries.split(","):
        if word in names:
            found.append(names[word])
        elif word.isdecimal() and int(word) < len(images):
            found.append(int(word))
        else:
            raise ConfigError(
                f"There is no query '{word}'.",
                f"Choose {', '.join(CHOICES)}, indices from 0 to {len(images) - 1}, or names of "
                f"query images, such as {images.name(0)}.",
            )
    return found


def _distances(
    evaluator: Evaluator, query: Tensor, gallery: Tensor, chosen: Sequence[int]
) -> dict[int, np.ndarray]:
    """Query → distances (G,) to all gallery images, re-ranked if the protocol says so."""
    rows: Sequence[int] = range(len(query))
    if evaluator.protocol.rerank:
        from harness.evaluation.reranking import rerank_blocks

        blocks = rerank_blocks(query, gallery)
    else:
        blocks, rows = distance_blocks(query[list(chosen)], gallery), chosen
    return {
        rows[start + offset]: row.cpu().numpy()
        for start, distances in blocks
        for offset, row in enumerate(distances)
        if rows[start + offset] in chosen
    }


def nearest(
    evaluator: Evaluator, query: int, distances: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest gallery images (K,) that the protocol ranks, and whether each is a correct match.

    Where tracks are ranked, each is represented by its nearest image.
    """
    q, g = evaluator.data.query, evaluator.data.gallery
    same = g.identities == q.identities[query]
    if q.cameras is not None and g.cameras is not None:
        own = same & (g.cameras == q.cameras[query])
    else:
        own = np.array([g.images.name(i) == q.images.name(query) for i in range(len(g.images))])
    removed = own | (g.identities == -1)
    order = np.argsort(np.where(removed, np.inf, distances), kind="stable")
    order = order[: len(order) - int(removed.sum())]
    if g.tracks is not None:
        _, first = np.unique(g.tracks[order], return_index=True)
        order = order[np.sort(first)]
    return order[:top], same[order[:top]]
