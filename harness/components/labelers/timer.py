"""Statistics of a labeler: counts, and the seconds that each step takes."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

#: shares of images without a cluster that are many or few, for hints about too few clusters
MANY, FEW = 0.5, 0.1
COLLAPSED = "If that does not help, the features have collapsed to a point."


def count_labels(labels: np.ndarray) -> dict[str, float]:
    """The clusters and outliers of labels (N,)."""
    return {"clusters": int(labels.max()) + 1, "outliers": int((labels < 0).sum())}


class Timer:
    """A stopwatch that synchronizes with the device of `features` before it reads the clock."""

    def __init__(self, features: Tensor) -> None:
        self.device = features.device
        #: `seconds_NAME` of each step so far, in order
        self.seconds: dict[str, float] = {}
        self._last = self._now()

    def lap(self, name: str) -> None:
        """End the step that began with the last lap; steps of one name add up."""
        now = self._now()
        key = f"seconds_{name}"
        self.seconds[key] = self.seconds.get(key, 0.0) + now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
