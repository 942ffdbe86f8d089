"""Candidates timed in alternating rounds (A B C A B C), so that other load affects all alike."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness.core.environment import environment
from harness.core.files import make_folder, write_json
from harness.core.host_memory import PeakMemory


@dataclass(frozen=True)
class Round:
    """One timed round: so many images took so many seconds.

    Attributes:
        details: other numbers of the round, such as the share of time spent waiting for data.
        prepared: images that CPUs worked on before the clock started.
    """

    images: int
    seconds: float
    details: Mapping[str, float] = field(default_factory=dict)
    prepared: int = 0


@dataclass
class Candidate:
    """Something to time: `run` does one round.

    Attributes:
        about: settings of this candidate alone, for its summary.
        cpu_rates: images per CPU second of each round, worker processes included.
    """

    name: str
    run: Callable[[], Round]
    about: Mapping[str, Any] = field(default_factory=dict)
    rounds: list[Round] = field(default_factory=list)
    cpu_rates: list[float] = field(default_factory=list)
    memory_mib: dict[str, float] = field(default_factory=dict)

    @property
    def rates(self) -> list[float]:
        """Images per second of each round."""
        return [each.images / each.seconds for each in self.rounds]

    def warm_up(self) -> None:
        """Run a round that does not count, and measure the peak of host memory."""
        with PeakMemory() as peak:
            self.run()
        self.memory_mib["host_above"] = round(peak.mib, 1)

    def measure(self, device: torch.device) -> None:
        """Run a round that counts."""
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        before = _cpu_seconds()
        done = self.run()
        self.cpu_rates.append((done.images + done.prepared) / max(_cpu_seconds() - before, 1e-6))
        self.rounds.append(done)
        if device.type == "cuda":
            self.memory_mib["device"] = round(torch.cuda.max_memory_allocated(device) / 2**20, 1)

    def summary(self) -> dict[str, Any]:
        """Medians, the rates and their spread (their range over their median), and peak memory."""
        median = statistics.median
        rate, keys = median(self.rates), self.rounds[0].details
        details = {k: round(median(each.details[k] for each in self.rounds), 5) for k in keys}
        return {
            "images_per_second": round(rate, 2),
            "spread": round((max(self.rates) - min(self.rates)) / rate, 3),
            "rounds": [round(rate, 2) for rate in self.rates],
            "images_per_core_second": round(median(self.cpu_rates), 2),
            "seconds": round(median(each.seconds for each in self.rounds), 4),
            **details,
            "memory_mib": self.memory_mib,
            **self.about,
        }


def compare(
    what: str, setting: Mapping[str, Any], candidates: Sequence[Candidate], repeats: int,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """Time candidates in turns: one round each to warm up, then `repeats` rounds each.

    Returns:
        `candidates`: each one's summary. `ratios`: how many times as fast the first one is as each
        other one, the median of the ratios within a round. `machine`: hardware, versions, date.
    """
    for candidate in candidates:
        candidate.warm_up()
    for _ in range(repeats):
        for candidate in candidates:
            candidate.measure(device)
    first, *others = candidates
    ratios = {
        other.name: {"images_per_second": _ratio(first.rates, other.rates),
                     "images_per_core_second": _ratio(first.cpu_rates, other.cpu_rates)}
        for other in others
    }  # fmt: skip
    machine = environment(device) | {"date": time.strftime("%Y-%m-%d", time.gmtime())}
    return {"what": what, "setting": dict(setting), "ratios": ratios, "machine": machine,
            "candidates": {each.name: each.summary() for each in candidates}}  # fmt: skip


def save(result: Mapping[str, Any], folder: str) -> Path:
    """Write a result into a folder, as `train-nvidia-h200.json`."""
    machine = result["machine"]
    device = machine["cpu"] if machine["device"] == "CPU" else machine["device"]
    name = re.sub(r"[^a-z0-9]+", "-", f"{result['what']} {device}".lower()).strip("-")
    path = Path(folder).expanduser() / f"{name}.json"
    make_folder(path.parent)
    write_json(path, result)
    return path


def _ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(ones, others, strict=True)), 2)


def _cpu_seconds() -> float:
    """CPU seconds of this process and of the worker processes that have ended."""
    return time.process_time() + sum(os.times()[2:4])
