"""Golden case of mAP, CMC and re-ranking."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from harness.conformance.cases import DISTANCE, Check, Vectors, case
from harness.evaluation.ground_truth import GroundTruth
from harness.evaluation.ranking import RankingResult, rank
from harness.evaluation.reranking import rerank_blocks


@case("eval")
def evaluation(z: Vectors) -> Iterator[Check]:
    """Metrics from features and from re-ranked distances, and the distances themselves."""
    query, gallery = z.tensors("query_features", "gallery_features")
    truth = GroundTruth(z["query_ids"], z["gallery_ids"], z["query_cams"], z["gallery_cams"])
    yield from _metrics("", rank(query, gallery, truth), z)
    distances = [(0, z.tensor("rerank_dist"))]
    yield from _metrics("rerank_", rank(None, None, truth, distances=distances), z)
    settings = int(z["rerank_k1"]), int(z["rerank_k2"]), z.number("rerank_lambda")
    for key, kind in (("rerank_dist", "squared"), ("rerank_dist_from_euclidean", "euclidean")):
        blocks = rerank_blocks(query, gallery, *settings, distance=kind)
        ours = torch.cat([block for _, block in blocks])
        yield z.close(f"re-ranked distance, {kind}", ours, key, DISTANCE)
    reranked = rank(None, None, truth, distances=rerank_blocks(query, gallery, *settings))
    yield z.close("re-ranked mAP from features", reranked.mAP, "rerank_mAP", 5e-7)


def _metrics(prefix: str, ours: RankingResult, z: Vectors) -> Iterator[Check]:
    name = "re-ranked " if prefix else ""
    curve = np.array([ours.cmc_at(k) for k in range(1, len(z[f"{prefix}cmc"]) + 1)])
    yield z.close(f"{name}mAP", ours.mAP, f"{prefix}mAP")
    yield z.close(f"{name}AP of each query", ours.ap, f"{prefix}ap_per_query")
    yield z.close(f"{name}CMC", curve, f"{prefix}cmc")
