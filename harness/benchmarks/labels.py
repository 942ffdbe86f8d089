"""`harness bench labels`: the label step by stage, beside its own matrix product."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from harness.benchmarks.features import CAMERAS, SIZES, clustered
from harness.benchmarks.measure import Row, exponent, median, render, synchronized_time
from harness.components.labelers import JaccardDBSCAN
from harness.core.errors import ConfigError
from harness.core.host_memory import PeakMemory
from harness.core.precision import exact_matmul

_TILE = 1024


def matrix_product(features: Tensor) -> float:
    """Seconds that the search's products alone take: all tiles on and above the diagonal."""
    x = features[:, 0].float().contiguous()
    out = torch.empty(min(_TILE, len(x)) ** 2, device=x.device)
    started = synchronized_time(x.device)
    with exact_matmul(x.device):
        for top in range(0, len(x), _TILE):
            for left in range(top, len(x), _TILE):
                rows, columns = x[top : top + _TILE], x[left : left + _TILE]
                place = out[: len(rows) * len(columns)].view(len(rows), len(columns))
                torch.mm(rows, columns.T, out=place)
    return synchronized_time(x.device) - started


def label_step(features: Tensor, labeler: JaccardDBSCAN, repeats: int) -> Row:
    """Measure one label step, each repeat beside the products of as many views.

    Args:
        features: (N, V, D). repeats: of which the median is given; one more warms up.
    """
    views = features.shape[1] if labeler.part_weight else 1
    stages: list[Mapping[str, float]] = []
    walls, ratios, peaks, floors = [], [], [], []
    for repeat in range(repeats + 1):
        floor = sum(matrix_product(features[:, v : v + 1]) for v in range(views))
        with PeakMemory() as peak:
            started = time.perf_counter()
            stats = labeler.label(features).stats
            wall = time.perf_counter() - started
        if repeat:
            stages.append(stats)
            walls.append(wall)
            floors.append(floor)
            ratios.append(wall / floor)
            peaks.append(peak.mib)
    after = [s["seconds_jaccard"] + s["seconds_cluster"] for s in stages]
    return {
        "images": len(features),
        "views": views,
        "clusters": stages[0]["clusters"],
        "outliers": stages[0]["outliers"],
        "search s": median([s["seconds_search"] for s in stages]),
        "Jaccard s": median([s["seconds_jaccard"] for s in stages]),
        "cluster s": median([s["seconds_cluster"] for s in stages]),
        "after search s": median(after),
        "total s": median(walls),
        "product s": median(floors),
        "total ÷ product": median(ratios),
        "MiB above features": max(peaks),
    }


def run(
    size: str, images: int | None, views: int, repeats: int, sweep: bool, device: str, json: bool,
    **options: Any,
) -> None:  # fmt: skip
    """Print the table (or JSON) of the label step."""
    target = torch.device(device)
    if repeats < 1 or views < 1 or (images is not None and images < 64):
        raise ConfigError("bench needs 1 repeat, 1 view and 64 images at the least.")
    labeler = JaccardDBSCAN(part_weight=0.15 if views > 1 else 0.0, **options)
    count, identities = SIZES[size]["train"]
    counts = [4096, 8192, 16384, 32768] if sweep else [images or count]
    rows = []
    for n in counts:
        people = max(2, identities * n // count)
        features = clustered(n, people, CAMERAS[size], views).features.to(target)
        rows.append(label_step(features, labeler, repeats))
        del features
    notes = []
    if sweep:
        for key in ("after search s", "MiB above features"):
            power = exponent([r["images"] for r in rows], [r[key] for r in rows])
            notes.append(f"{key}: grows as N^{power:.2f}")
    render(f"label step, {labeler.describe()}, {target.type}", rows, notes, json)
