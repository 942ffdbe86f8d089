"""`harness bench eval`: mAP and CMC beside their own matrix product; re-ranking if asked."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.benchmarks import labels
from harness.benchmarks.features import CAMERAS, SIZES, Images, People
from harness.benchmarks.measure import Row, median, render, synchronized_time
from harness.core.errors import ConfigError
from harness.core.host_memory import PeakMemory
from harness.core.precision import exact_matmul
from harness.evaluation.ranking import rank
from harness.evaluation.reranking import rerank_blocks

_ROWS = 512


def test_set(size: str, scale: float = 1.0) -> tuple[Images, Images]:
    """Query and gallery of a data set's size, or a share of it."""
    (queries, people), (gallery, _) = SIZES[size]["query"], SIZES[size]["gallery"]
    crowd = People(max(2, int(people * scale)), CAMERAS[size])
    return crowd.images(max(8, int(queries * scale))), crowd.images(max(64, int(gallery * scale)))


def matrix_product(query: Tensor, gallery: Tensor) -> float:
    """Seconds of the query × gallery product alone, in blocks of rows."""
    out = torch.empty(_ROWS * len(gallery), device=query.device)
    started = synchronized_time(query.device)
    with exact_matmul(query.device):
        for rows in query.split(_ROWS):
            place = out[: len(rows) * len(gallery)].view(len(rows), -1)
            torch.mm(rows, gallery.T, out=place)
    return synchronized_time(query.device) - started


def evaluation(query: Images, gallery: Images, repeats: int, rerank: bool) -> Row:
    """Measure the ranking; one more repeat warms up.

    The product is query × gallery; with re-ranking half of the symmetric one of both together.
    """
    x, y = query.features[:, 0], gallery.features[:, 0]
    everyone = torch.cat([query.features, gallery.features]) if rerank else query.features
    walls, floors, ratios, peaks = [], [], [], []
    for repeat in range(repeats + 1):
        floor = labels.matrix_product(everyone) if rerank else matrix_product(x, y)
        with PeakMemory() as peak:
            started = synchronized_time(x.device)
            result = rank(
                x, y, query.identities, gallery.identities, query.cameras, gallery.cameras,
                distances=rerank_blocks(x, y) if rerank else None,
            )  # fmt: skip
            wall = synchronized_time(x.device) - started
        if repeat:
            walls.append(wall)
            floors.append(floor)
            ratios.append(wall / floor)
            peaks.append(peak.mib)
    return {
        "queries": len(x),
        "gallery": len(y),
        "what": "re-ranking, mAP, CMC" if rerank else "mAP, CMC",
        "mAP": 100 * result.mAP,
        "total s": median(walls),
        "product s": median(floors),
        "total ÷ product": median(ratios),
        "MiB above features": max(peaks),
    }


def run(size: str, scale: float, repeats: int, rerank: bool, device: str, json: bool) -> None:
    """Print the table (or JSON) of evaluation."""
    if repeats < 1 or not 0 < scale <= 1:
        raise ConfigError("bench needs 1 repeat at the least, and 0 < scale <= 1.")
    target = torch.device(device)
    query, gallery = (
        Images(part.features.to(target), part.identities, part.cameras)
        for part in test_set(size, scale)
    )
    rows = [evaluation(query, gallery, repeats, False)]
    if rerank:
        rows.append(evaluation(query, gallery, repeats, True))
    render(f"evaluation, {target.type}", rows, [], json)
