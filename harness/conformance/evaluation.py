"""Golden case of mAP, CMC and re-ranking."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from harness.conformance.cases import Check, Vectors, case, close
from harness.evaluation.ranking import RankingResult, rank
from harness.evaluation.reranking import rerank_blocks

EXACT, DISTANCE = 1e-9, 2e-6


@case("eval")
def evaluation(z: Vectors) -> Iterator[Check]:
    """Metrics from features and from re-ranked distances; the distances themselves."""
    query, gallery = (torch.from_numpy(z[f"{part}_features"]) for part in ("query", "gallery"))
    yield from _metrics("", _ranked(z, distances=None), z)
    yield from _metrics("rerank_", _ranked(z, torch.from_numpy(z["rerank_dist"])), z)
    settings = int(z["rerank_k1"]), int(z["rerank_k2"]), float(z["rerank_lambda"])
    for key, kind in (("rerank_dist", "squared"), ("rerank_dist_from_euclidean", "euclidean")):
        blocks = rerank_blocks(query, gallery, *settings, distance=kind)
        ours = torch.cat([block for _, block in sorted(blocks, key=lambda b: b[0])])
        yield close(f"re-ranked distance, {kind}", ours, z[key], DISTANCE)
    reranked = rank(
        None, None, z["query_ids"], z["gallery_ids"], z["query_cams"], z["gallery_cams"],
        distances=rerank_blocks(query, gallery, *settings),
    )  # fmt: skip
    yield close("re-ranked mAP from features", reranked.mAP, z["rerank_mAP"], 5e-7)


def _ranked(z: Vectors, distances: torch.Tensor | None) -> RankingResult:
    features = [torch.from_numpy(z[f"{part}_features"]) for part in ("query", "gallery")]
    return rank(
        features[0], features[1], z["query_ids"], z["gallery_ids"], z["query_cams"],
        z["gallery_cams"], distances=None if distances is None else iter([(0, distances)]),
    )  # fmt: skip


def _metrics(prefix: str, ours: RankingResult, z: Vectors) -> Iterator[Check]:
    name = "re-ranked " if prefix else ""
    curve = np.array([ours.cmc_at(k) for k in range(1, len(z[f"{prefix}cmc"]) + 1)])
    yield close(f"{name}mAP", ours.mAP, z[f"{prefix}mAP"], EXACT)
    yield close(f"{name}AP of each query", ours.ap, z[f"{prefix}ap_per_query"], EXACT)
    yield close(f"{name}CMC", curve, z[f"{prefix}cmc"], EXACT)
