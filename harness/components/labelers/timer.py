"""The seconds that each step of a labeler takes."""

from __future__ import annotations

import time

import torch
from torch import Tensor


class Timer:
    """A stopwatch that synchronizes with the device of `features` before it reads the clock.

    Attributes:
        seconds: `seconds_NAME` of each step so far, in order.
    """

    def __init__(self, features: Tensor) -> None:
        self.device = features.device
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
