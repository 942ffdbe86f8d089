"""What the benchmarks share: clocks that wait for the device, medians, tables."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from typing import Any

import torch

from harness.core.throughput import synchronized_time

__all__ = ["Row", "exponent", "median", "render", "synchronized_time"]

Row = dict[str, Any]


def median(values: Sequence[float]) -> float:
    """The median, as a plain float."""
    return float(statistics.median(values))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """b of the least-squares fit value ≈ a · size^b; NaN if a value is not positive."""
    if min(values) <= 0:
        return math.nan
    x, y = [math.log(s) for s in sizes], [math.log(v) for v in values]
    return float(statistics.linear_regression(x, y).slope)


def render(title: str, rows: Sequence[Row], notes: Sequence[str], as_json: bool) -> None:
    """Print rows as a table with one column each, or as JSON."""
    machine = {"threads": torch.get_num_threads(), "cores": os.cpu_count()}
    if as_json:
        print(json.dumps({"title": title, **machine, "rows": list(rows), "notes": list(notes)}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{title}, {machine['threads']} threads")
    table.add_column()
    for _ in rows:
        table.add_column(justify="right")
    for key in rows[0]:
        table.add_row(key, *(_text(row[key]) for row in rows))
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"
