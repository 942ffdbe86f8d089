"""Builds the page of `harness report` from a store's records: one file that works offline."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from harness.core.errors import ConfigError
from harness.core.files import expanded, write_text
from harness.core.version import __version__
from harness.results.comparisons import Comparison, comparisons
from harness.results.palette import SCHEMES
from harness.results.report.chart_data import chart_data, read_file
from harness.results.report.methods import methods
from harness.results.store import Store
from harness.results.table_model import Table, leaderboard

if TYPE_CHECKING:
    from harness.results.report.charts import Chart

STYLES = ("svg", "png", "pdf")
#: rows in the charts; more would be hard to distinguish
MAX_ROWS = 16
#: entries of a protocol card that have other places on the page
NOT_IN_CARD = ("name", "hash", "cameras", "selection")


@dataclass(frozen=True)
class Section:
    """A leaderboard with its protocol card and charts.

    key: its id in the page. labels: of the rows in the charts. differs: see `_differs`.
    """

    key: str
    comparison: Comparison
    sheet: Table
    labels: Sequence[str]
    charts: Sequence[Chart]
    differs: Sequence[str]

    @property
    def notes(self) -> list[str]:
        """Notes below the table; the protocol card and warnings have places of their own."""
        elsewhere = (self.comparison.caption, self.comparison.warning)
        return [note.replace("`", "") for note in self.sheet.notes if note not in elsewhere]

    @property
    def file_name(self) -> str:
        """What the files of its charts begin with."""
        found, card = self.comparison, self.comparison.card
        parts = (found.dataset, found.data, found.source_data, card["name"], card["hash"])
        return re.sub(r"[^\w.]+", "-", "-".join(str(part) for part in parts if part))


def write_report(
    store: str | Path, output: str | Path, style: str | None = None, folder: str | None = None
) -> list[Path]:
    """Write the page and return its path, followed by those of chart files.

    Args:
        style: svg, png or pdf to write each chart as a file, too. folder: of these files; by
            default `<output without suffix>-charts`.

    Raises:
        ConfigError: the store has no finished run, or the style is unknown.
        HarnessError: a file cannot be written.
    """
    if style not in (None, *STYLES):
        raise ConfigError(f"--charts {style} is unknown.", f"Choose {', '.join(STYLES)}.")
    if folder is not None and style is None:
        raise ConfigError("--charts-dir needs --charts.", f"Add --charts {STYLES[0]}.")
    text, sections = _page(store)
    path = expanded(output)
    write_text(path, text)
    written = [path]
    if style is not None:
        from harness.results.report.charts import write_charts

        place = expanded(folder or path.with_name(f"{path.stem}-charts"))
        for section in sections:
            written += write_charts(section.charts, place, section.file_name, style)
    return written


def render(store: str | Path) -> str:
    """The page of a store. The same records give the same page.

    Raises:
        ConfigError: the store has no finished run.
    """
    return _page(store)[0]


def _differs(earlier: Sequence[Section], found: Comparison) -> list[str]:
    """How a protocol card differs from the first one of the same data set and name."""
    same = (s.comparison for s in earlier if s.comparison.dataset == found.dataset)
    first = next((other.card for other in same if other.card["name"] == found.card["name"]), None)
    return [
        f"{key.replace('_', ' ')} {found.card.get(key, 'not given')}"
        for key in dict.fromkeys([*(first or ()), *found.card])
        if first and key not in NOT_IN_CARD and first.get(key) != found.card.get(key)
    ]


@cache
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _page(store: str | Path) -> tuple[str, list[Section]]:
    """The page and its sections. The store is read once: later changes of it do not matter."""
    runs = {run.name: run for run in Store(Path(store)).runs()}
    damaged = [(run.name, f"damaged: {run.problem}") for run in runs.values() if run.problem]
    finished = [run for run in runs.values() if run.finished]
    tables = list(comparisons(store, found=runs.values()))
    from harness.results.report.charts import charts, marker, theme  # altair is slow to import

    sections: list[Section] = []
    problems: dict[str, str] = {}
    for place, found in enumerate(tables):
        best_first = replace(found, rows=found.rows[::-1].reset_index(drop=True))
        data = chart_data(best_first, runs, MAX_ROWS)
        problems |= data.damaged
        drawn = charts(data, left_out=max(0, len(best_first.rows) - MAX_ROWS))
        labels, differs = list(data.rows["label"]), _differs(sections, found)
        table = leaderboard(best_first)
        sections.append(Section(f"b{place}", best_first, table, labels, drawn, differs))
    damaged += [(name, f"curves left out: {text}") for name, text in sorted(problems.items())]
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    scripts = [_vega(), read_file("page.js")]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()) for script in scripts]
    described = methods(finished)
    days = [str(day) for run in finished if (day := run.record.get("finished"))]
    style = environment.from_string(read_file("page.css")).render(schemes=SCHEMES)
    text = environment.from_string(read_file("page.html")).render(
        sections=sections, methods=described, keys={one.name: one.key for one in described},
        datasets=sorted({section.comparison.dataset for section in sections}),
        protocols=sorted({str(section.comparison.card["name"]) for section in sections}),
        runs=len(finished), last_day=max(days, default=""), damaged=damaged,
        unfinished=[run.name for run in runs.values() if not run.problem and not run.finished],
        version=__version__, style=Markup(style), scripts=[Markup(script) for script in scripts],
        policy=" ".join(f"'sha256-{digest.decode()}'" for digest in digests), theme=theme(),
        marker=marker, max_rows=MAX_ROWS, not_in_card=NOT_IN_CARD,
    )  # fmt: skip
    return text, sections
