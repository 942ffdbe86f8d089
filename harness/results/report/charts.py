"""All charts of a table."""

from __future__ import annotations

from harness.results.report.bars import seconds, seeds
from harness.results.report.chart import Chart
from harness.results.report.curves import CURVES, over_epochs
from harness.results.report.scatter import throughput
from harness.results.report.series import Rows


def charts(board: str, rows: Rows) -> list[Chart]:
    """Those that have something to show.

    Args:
        board: the table's identifier in the page.
    """
    found = [
        seeds(f"{board}-seeds", board, rows),
        *(over_epochs(f"{board}-{name}", board, rows, name) for name in CURVES),
        throughput(f"{board}-speed", board, rows),
        seconds(f"{board}-time", board, rows),
    ]
    return [chart for chart in found if chart is not None]
