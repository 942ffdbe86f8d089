"""`harness report`: the store as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

import harness
from harness.core.files import write_text
from harness.results.comparisons import Comparison, comparisons
from harness.results.palette import DARK, LIGHT
from harness.results.report.chart import Chart, legend
from harness.results.report.charts import charts
from harness.results.report.methods import Method, methods
from harness.results.report.series import Rows
from harness.results.store import Run, Store
from harness.results.table_model import Cell, Table, leaderboard


@dataclass(frozen=True)
class Board:
    """One table with what belongs to it.

    key: its identifier in the page. differs: how its protocol card differs from the first one of
    the same name, as `key value`.
    """

    key: str
    comparison: Comparison
    sheet: Table
    charts: tuple[Chart, ...]
    differs: tuple[str, ...]

    @property
    def heads(self) -> list[tuple[str, int]]:
        return self.sheet.groups

    @property
    def card(self) -> dict[str, Any]:
        """What was held equal."""
        left_out = ("name", "hash", "cameras", "selection")
        return {
            k.replace("_", " "): v for k, v in self.comparison.card.items() if k not in left_out
        }

    @property
    def notes(self) -> list[str]:
        """Below the table; the protocol card and warnings have places of their own."""
        elsewhere = (self.comparison.caption, self.comparison.warning)
        return [note.replace("`", "") for note in self.sheet.notes if note not in elsewhere]

    @property
    def runs(self) -> int:
        return len({run for runs in self.comparison.rows["runs"] for run in runs})

    @property
    def best(self) -> Cell:
        """The name of its best row."""
        return self.sheet.rows[0][0]


def write_report(store: str | Path, output: str | Path) -> Path:
    """Write the page and return its place.

    Raises:
        ConfigError: the store holds no finished run. HarnessError: the file cannot be written.
    """
    path = Path(output).expanduser()
    write_text(path, render(store))
    return path


def render(store: str | Path) -> str:
    """The page of a store. The same records make the same page.

    Raises:
        ConfigError: the store holds no finished run.
    """
    found = list(comparisons(store))
    runs = {run.name: run for run in Store(Path(store)).runs()}
    left_out = [(run.name, f"damaged: {run.problem}") for run in runs.values() if run.problem]
    finished = [run for run in runs.values() if run.finished]
    unfinished = [name for name, run in runs.items() if not run.problem and not run.finished]
    described = methods(finished)
    boards = []
    damaged: dict[str, str] = {}
    for place, comparison in enumerate(found):
        best_first = replace(comparison, rows=comparison.rows[::-1].reset_index(drop=True))
        rows = Rows(best_first, runs.__getitem__)
        key = f"b{place}"
        shown = tuple(charts(key, rows))
        damaged |= rows.damaged
        same = [c for c in found[:place] if _alike(c, comparison)]
        table = leaderboard(best_first)
        boards.append(Board(key, best_first, table, shown, _differs(same, comparison)))
    left_out += [(name, f"curves left out: {problem}") for name, problem in sorted(damaged.items())]
    return _fill(boards, described, finished, left_out, unfinished)


def _alike(a: Comparison, b: Comparison) -> bool:
    return (a.dataset, a.card["name"]) == (b.dataset, b.card["name"])


def _differs(same: Sequence[Comparison], comparison: Comparison) -> tuple[str, ...]:
    if not same:
        return ()
    first, card = same[0].card, comparison.card
    keys = dict.fromkeys([*first, *card])
    changed = [k for k in keys if k not in ("hash", "cameras", "selection")]
    return tuple(
        f"{k.replace('_', ' ')} {card.get(k, 'not given')}"
        for k in changed
        if first.get(k) != card.get(k)
    )


def _fill(
    boards: Sequence[Board],
    described: Sequence[Method],
    finished: Sequence[Run],
    left_out: Sequence[tuple[str, str]],
    unfinished: Sequence[str],
) -> str:
    folder = files("harness.results.report")
    texts = {name: folder.joinpath(name).read_text(encoding="utf-8") for name in
             ("page.html", "page.css", "page.js")}  # fmt: skip
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    digest = base64.b64encode(hashlib.sha256(texts["page.js"].encode()).digest()).decode()
    style = environment.from_string(texts["page.css"]).render(light=LIGHT, dark=DARK)
    days = [str(run.record["finished"]) for run in finished if run.record.get("finished")]
    return environment.from_string(texts["page.html"]).render(
        boards=boards,
        methods=described,
        keys={method.name: method.key for method in described},
        datasets=sorted({board.comparison.dataset for board in boards}),
        protocols=sorted({str(board.comparison.card["name"]) for board in boards}),
        runs=len(finished),
        days=max(days, default=""),
        left_out=left_out,
        unfinished=unfinished,
        version=harness.__version__,
        style=Markup(style),
        script=Markup(texts["page.js"]),
        digest=digest,
        legend=legend,
        metrics=_metrics,
    )


def _metrics(run: Run) -> tuple[str, str]:
    """mAP and Rank-1 of a run as they are shown."""
    metrics = run.record.get("metrics") or {}
    try:
        return f"{metrics['mAP']:.1f}", f"{metrics['rank1']:.1f}"
    except (KeyError, TypeError):
        return "–", "–"
