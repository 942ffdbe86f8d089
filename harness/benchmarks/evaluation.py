"""`harness bench eval`: mAP and CMC, alternating with the matrix product that they need."""

from __future__ import annotations

from typing import Any

import torch

from harness.benchmarks.features import CAMERAS, SIZES, Images, synthetic_features
from harness.benchmarks.labels import product_seconds
from harness.benchmarks.timing import USUAL, Bounds, Candidate, Round, compare
from harness.core.throughput import synchronized_time
from harness.evaluation.ground_truth import GroundTruth
from harness.evaluation.ranking import rank
from harness.evaluation.reranking import rerank_blocks


def measure(
    device: torch.device,
    size: str,
    scale: float,
    rerank: bool,
    repeats: int,
    bounds: Bounds = USUAL,
) -> dict[str, Any]:
    """Time the ranking of synthetic features.

    Candidates are `product` (query × gallery, or with re-ranking half of the symmetric product of
    both together) and `eval`.

    Args:
        size: data set whose numbers of queries, gallery images, identities and cameras are used.
        scale: share of them, in (0, 1].
        rerank: rank by k-reciprocal re-ranked distances.
    """
    query, gallery = test_set(size, scale)
    x, y = query.features[:, 0].to(device), gallery.features[:, 0].to(device)
    truth = GroundTruth(query.identities, gallery.identities, query.cameras, gallery.cameras)

    def evaluate() -> Round:
        started = synchronized_time(device)
        result = rank(x, y, truth, distances=rerank_blocks(x, y) if rerank else None)
        return Round(len(x), synchronized_time(device) - started, {"mAP": 100 * result.mAP})

    def product() -> Round:
        seconds = product_seconds(torch.cat([x, y])) if rerank else product_seconds(x, y)
        return Round(len(x), seconds)

    setting = {"queries": len(x), "gallery": len(y), "rerank": rerank}
    candidates = [Candidate("product", product), Candidate("eval", evaluate)]
    return compare("eval", setting, candidates, repeats, device, bounds)


def test_set(size: str, scale: float = 1.0) -> tuple[Images, Images]:
    """Query and gallery of a data set's size, or a share of it."""
    (queries, identities), (gallery, _) = SIZES[size]["query"], SIZES[size]["gallery"]
    counts = [max(8, int(queries * scale)), max(64, int(gallery * scale))]
    query, ranked = synthetic_features(counts, max(2, int(identities * scale)), CAMERAS[size])
    return query, ranked
