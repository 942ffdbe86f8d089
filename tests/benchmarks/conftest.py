"""Benchmarks beside dense code: one table of seconds and peak memory at the end.

python -m pytest tests/benchmarks --benchmark-enable -m "slow or not slow"
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from harness.core.host_memory import PeakMemory

_rows: list[tuple[str, str, float, float]] = []


@pytest.fixture
def all_threads() -> Iterator[None]:
    """Compute with all cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Time `function()` under pytest-benchmark and measure its peak memory; returns its result."""
    if not benchmark.disabled:
        request.getfixturevalue("all_threads")

    def run(group: str, name: str, function: Callable[[], Any], rounds: int = 1) -> Any:
        benchmark.group = group
        if name == "harness":  # compiles the kernels before the clock starts
            function()
        with PeakMemory() as peak:
            result = benchmark.pedantic(function, rounds=rounds, iterations=1)
        benchmark.extra_info["peak_mib"] = peak.mib
        if not benchmark.disabled:
            _rows.append((group, name, benchmark.stats.stats.median, peak.mib))
        return result

    return run


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _rows:
        return
    harness = {group: (s, m) for group, name, s, m in _rows if name == "harness"}
    terminalreporter.section("multiples of the harness")
    for group, name, seconds, mib in sorted(_rows):
        s, m = harness.get(group, (seconds, mib))
        terminalreporter.write_line(
            f"{group:42} {name:8} {seconds:9.3f} s ({seconds / s:6.1f} ×) "
            f"{mib:8.0f} MiB ({mib / max(m, 1):6.1f} ×)"
        )
