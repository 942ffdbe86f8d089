"""What a stage's epochs say of speed and cost, for its record."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

#: a row's key of a labeler's own step begins with this, e.g. label_seconds_search
STEP = "label_seconds_"


def synchronised(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rate(images: int, seconds: float) -> float:
    """Images a second."""
    return round(images / max(seconds, 1e-3), 2)


def stage_throughput(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Speed and cost of a stage, from its history.

    Returns:
        images_per_second: of training, the median epoch's.
        extract_images_per_second: of features for labels; null if none were extracted.
        label_seconds: of labels, by the labeler's own steps (search, jaccard, cluster …).
        waiting: share of the time of training in which the network had no data to work on.
    """
    extractions = [r["extract_images_per_second"] for r in rows if "extract_images_per_second" in r]
    steps: dict[str, float] = {}
    for row in rows:
        for key in row:
            if key.startswith(STEP):
                name = key.removeprefix(STEP)
                steps[name] = steps.get(name, 0.0) + row[key]
    training = sum(row["seconds_train"] for row in rows)
    return {
        "images_per_second": _median([row["images_per_second"] for row in rows]),
        "extract_images_per_second": _median(extractions),
        "label_seconds": {name: round(value, 3) for name, value in steps.items()},
        # rows from before it was measured have none
        "waiting": round(sum(r.get("waiting_seconds", 0.0) for r in rows) / max(training, 1e-3), 5),
    }


def _median(values: Sequence[float]) -> float | None:
    return round(float(statistics.median(values)), 2) if values else None


def highest(*peaks: Mapping[str, float]) -> dict[str, float]:
    """The highest of peak memories of the processes that a cell took, MiB by place."""
    names = {name for peak in peaks for name in peak}
    return {name: max(peak.get(name, 0.0) for peak in peaks) for name in sorted(names)}
