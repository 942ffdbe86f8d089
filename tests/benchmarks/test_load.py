"""Other load: it is measured, disturbed rounds are repeated, disturbed results are not written."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.benchmarks import timing
from harness.benchmarks.timing import Bounds, Candidate, Round, compare, save
from harness.core import load
from harness.core.errors import HarnessError
from harness.core.load import Load, LoadMeter

CPU = torch.device("cpu")


def fake_clock(monkeypatch: pytest.MonkeyPatch, own: float, *passed: float) -> None:
    """Kernel seconds by kind that pass until a meter is read, and our own."""
    ticks, mine, clock = iter([[0.0] * 8, list(passed)]), iter([0.0, own]), iter([0.0, 1.0])
    monkeypatch.setattr(load, "_ticks", lambda: next(ticks))
    monkeypatch.setattr(load, "cpu_seconds", lambda: next(mine))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))


def test_work_that_is_not_ours_is_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    # user, nice, system, idle, iowait, irq, softirq, steal: 20 s of two cores in 10 s
    fake_clock(monkeypatch, 9.0, 8.0, 2.0, 1.0, 5.0, 1.0, 0.5, 0.5, 2.0)
    found = LoadMeter().read()
    assert found is not None
    assert found.others == pytest.approx(3 / 20) and found.steal == pytest.approx(2 / 20)
    assert found.total == pytest.approx(0.25)


def test_a_short_time_or_an_unknown_system_has_no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LoadMeter().read() is None, "shorter than the kernel's clock can tell"
    monkeypatch.setattr(load, "SHORTEST", 0.0)
    monkeypatch.setattr(load, "_ticks", list)
    assert LoadMeter().read() is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="Linux only")
def test_a_busy_process_is_seen() -> None:
    meter = LoadMeter()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.8)
        found = meter.read()
    finally:
        busy.kill()
        busy.wait()
    cores = len(os.sched_getaffinity(0))
    assert found is not None and 0.3 / cores < found.total <= 1.05


def loads(monkeypatch: pytest.MonkeyPatch, *shares: float) -> None:
    """What the meter of each measurement reads, that of the whole one included."""
    readings = iter(shares)

    class Meter:
        def read(self) -> Load:
            return Load(next(readings), 0.0)

    monkeypatch.setattr(timing, "LoadMeter", Meter)


def rounds(*seconds: float) -> Callable[[], Round]:
    clock = iter(seconds)
    return lambda: Round(10, next(clock))


def test_disturbed_rounds_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    # one candidate, two rounds: the first is disturbed twice, the second never ends quietly
    loads(monkeypatch, 0.5, 0.3, 0.02, 0.9, 0.2, 0.4, 0.1)
    once = rounds(99.0, 5.0, 3.0, 1.0, 9.0, 2.0, 4.0)
    found = compare("train", {}, [Candidate("a", once)], 2, CPU, Bounds(0.1, 9.0, retries=2))
    assert found["candidates"]["a"]["rounds"] == [10.0, 5.0], "the quietest try of each round"
    assert found["load"]["repeated"] == 4 and found["load"]["highest"] == 0.2
    assert found["disturbed"] == ["other work took up to 20% of the CPU (a)"]


def test_of_rounds_too_short_to_tell_the_whole_measurement_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readings = iter([Load(0.9, 0.0), Load(0.01, 0.0), None, None, None, None])

    class Meter:
        def __init__(self) -> None:  # that of the whole measurement is the first
            self.load = next(readings)

        def read(self) -> Load | None:
            return self.load

    monkeypatch.setattr(timing, "LoadMeter", Meter)
    once = rounds(*[1.0] * 6)
    found = compare("train", {}, [Candidate("a", once)], 3, CPU, Bounds(0.1, 9.0, retries=0))
    assert found["disturbed"] == ["other work took up to 90% of the CPU (all rounds)"]


def test_rounds_that_differ_are_disturbed(tmp_path: Path) -> None:
    found = compare("train", {}, [Candidate("a", rounds(9.0, 1.0, 2.0, 1.0))], 3, CPU,
                    Bounds(1.0, 0.2))  # fmt: skip
    assert found["candidates"]["a"]["spread"] == 0.5, "10, 5 and 10 images/s"
    assert found["disturbed"] == ["a: the rate is uncertain by ± 25%"]
    with pytest.raises(HarnessError, match=r"disturbed and is not written\. a: the rate is unc"):
        save(found, str(tmp_path))
    assert not list(tmp_path.iterdir())
    found["disturbed"] = []
    assert save(found, str(tmp_path)).is_file()
