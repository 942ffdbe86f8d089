"""Speed and cost of a stage, computed from its history."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

#: prefix of history keys with the seconds of a labeler's own steps, e.g. label_seconds_search
STEP = "label_seconds_"


def synchronized_time(device: torch.device) -> float:
    """`time.perf_counter()` after all work queued on the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def rate(images: int, seconds: float) -> float:
    """Images per second."""
    return round(images / max(seconds, 1e-3), 2)


def stage_throughput(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Speed and cost of a stage, from its history rows.

    Returns:
        images_per_second: training speed, median over epochs.
        extract_images_per_second: feature extraction for labels; None if nothing was extracted.
        label_seconds: total seconds by labeler step (search, jaccard, cluster …).
        waiting: fraction of training time in which the network waited for data.
        cpu_share: share of the processor's time that other work left during training, mean over
            epochs; None if it is unknown.
    """
    extractions = [r["extract_images_per_second"] for r in rows if "extract_images_per_second" in r]
    steps: dict[str, float] = {}
    for key, value in (item for row in rows for item in row.items() if item[0].startswith(STEP)):
        name = key.removeprefix(STEP)
        steps[name] = steps.get(name, 0.0) + value
    shares = [row["cpu_share"] for row in rows if "cpu_share" in row]
    training = sum(row["seconds_train"] for row in rows)
    return {
        "images_per_second": _median([row["images_per_second"] for row in rows]),
        "extract_images_per_second": _median(extractions),
        "label_seconds": {name: round(value, 3) for name, value in steps.items()},
        "cpu_share": round(statistics.fmean(shares), 3) if shares else None,
        "waiting": round(sum(r.get("waiting_seconds", 0.0) for r in rows) / max(training, 1e-3), 5),
    }


def _median(values: Sequence[float]) -> float | None:
    return round(float(statistics.median(values)), 2) if values else None


def highest(*peaks: Mapping[str, float]) -> dict[str, float]:
    """Maximum of peak memories in MiB, key by key."""
    names = {name for peak in peaks for name in peak}
    return {name: max(peak.get(name, 0.0) for peak in peaks) for name in sorted(names)}
