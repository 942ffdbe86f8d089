"""How much of the processor other work takes."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

#: seconds below which the kernel's clock ticks are too coarse
SHORTEST = 0.5
#: fields of a line of /proc/stat: user, nice, system, irq and softirq are work of this machine
_WORK, _STEAL, _FIELDS = (0, 1, 2, 5, 6), 7, 8


def cpu_seconds() -> float:
    """CPU seconds of this process and of the worker processes that have ended."""
    return time.process_time() + sum(os.times()[2:4])


@dataclass(frozen=True)
class Load:
    """Shares of the CPU time of our cores: other processes, and other virtual machines."""

    others: float
    steal: float

    @property
    def total(self) -> float:
        """The share that was not ours to use."""
        return self.others + self.steal


class LoadMeter:
    """Measures the load from its creation to each call of `read`."""

    def __init__(self) -> None:
        self._own, self._ticks, self._started = cpu_seconds(), _ticks(), time.perf_counter()

    def read(self) -> Load | None:
        """The load since the start; None if it is unknown, or the time is too short."""
        own, now = cpu_seconds() - self._own, _ticks()
        if not (now and self._ticks) or time.perf_counter() - self._started < SHORTEST:
            return None
        passed = [after - before for after, before in zip(now, self._ticks, strict=True)]
        capacity = max(sum(passed), 1e-9)
        work = sum(passed[field] for field in _WORK)
        return Load(max(0.0, work - own) / capacity, passed[_STEAL] / capacity)


def _ticks() -> list[float]:
    """Seconds by kind, summed over the cores that this process may use; [] where unknown."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
        tick, ours = os.sysconf("SC_CLK_TCK"), {f"cpu{core}" for core in os.sched_getaffinity(0)}
    except (OSError, AttributeError, ValueError):
        return []
    words = [line.split() for line in lines]
    rows = [word[1 : 1 + _FIELDS] for word in words if word and word[0] in ours]
    return [sum(map(int, column)) / tick for column in zip(*rows, strict=True)]


def run_queue() -> float | None:
    """Processes that ran or waited for a core in the last minute, on average; None if unknown."""
    with contextlib.suppress(OSError, AttributeError):
        return round(os.getloadavg()[0], 2)
    return None
