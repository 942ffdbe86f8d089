"""Rounds of a benchmark: images, seconds, waiting, the work of cores, memory; and their medians."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.benchmarks.measure import median
from harness.core.host_memory import PeakMemory


@dataclass(frozen=True)
class Round:
    """images in seconds, of which the network waited for data in some. made: images that all of the
    work was for, that before the clock started included.
    """

    images: int
    seconds: float
    waited: float = 0.0
    made: int = 0


Once = Callable[[], Round]


@dataclass
class Contender:
    """Who is measured: `once` does a round."""

    name: str
    once: Once
    told: dict[str, Any] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    #: images a second that a core works, worker processes' work included
    efforts: list[float] = field(default_factory=list)
    mib: dict[str, float] = field(default_factory=dict)

    def measure(self, device: torch.device, counts: bool) -> None:
        """One round; a warm-up does not count."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        if not counts:  # memory is seen here, as looking gives back what the rounds should keep
            with PeakMemory() as peak:
                self.once()
            self.mib["host_above"] = round(peak.mib, 1)
            return
        before = _worked()
        done = self.once()
        self.efforts.append(max(done.made, done.images) / max(_worked() - before, 1e-6))
        self.rates.append(done.images / done.seconds)
        self.waits.append(done.waited / done.seconds)
        if device.type == "cuda":
            peak_there = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
            self.mib["device"] = max(peak_there, self.mib.get("device", 0.0))

    def result(self) -> dict[str, Any]:
        """Medians, and every round."""
        return {
            "images_per_second": round(median(self.rates), 2),
            "rounds": [round(rate, 2) for rate in self.rates],
            "images_per_core_second": round(median(self.efforts), 2),
            "waiting": round(median(self.waits), 5),
            "memory_mib": self.mib,
            **self.told,
        }


def _worked() -> float:
    """Seconds that cores worked for this process and for the workers that have ended."""
    return time.process_time() + sum(os.times()[2:4])
