"""`harness table`: comparisons of finished runs, in the terminal or as text for papers.

Runs of different protocols never share a table. Published numbers have columns of their own, and
only beside runs whose protocol is meant to reproduce them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from rich import table as rich_table
from rich.console import Console
from rich.text import Text

from harness.core.errors import ConfigError, did_you_mean
from harness.core.files import expanded, write_text
from harness.core.metrics import METRICS
from harness.results import published
from harness.results.comparisons import COSTS, Comparison, comparisons
from harness.results.formats import FORMATS
from harness.results.formats.latex import bibliography, latex
from harness.results.pivots import check_metrics, pivot
from harness.results.significance_marks import compare
from harness.results.store import Run, Store, frame
from harness.results.store_check import record_problems
from harness.results.table_model import MAIN, Table, differences, leaderboard, values

HEAD = """\
# Leaderboard

Made by `harness table --format markdown` from records{finished}; not to be edited.
Percent, mean ± standard deviation over seeds. Rows of different protocols or data never share a
table. Cameras: whether the method uses camera labels, even if only in its sampler. Speeds, hours
and costs are from `harness bench methods`, which times methods side by side, where it has been run.
"""
STYLES = {"best": "bold", "second": "underline"}
#: columns that a narrow terminal does without, the first ones first
LEAST = ("Rank-10", "Rank-5", "Hours", "mINP", "Images/s", "Cameras", "Published mAP",
         "Published Rank-1", "Seeds")  # fmt: skip
#: what --gap says without its bounds
NO_BOUNDS = (
    "note: no gap is known: it takes finished runs of direct_transfer and of supervised on the "
    "same data, with the same protocol, backbone, weights, input and number of seeds, "
    "with default options and the last checkpoint; where several such runs differ, none is taken."
)


@dataclass(frozen=True)
class Options:
    """The options of `harness table`.

    style: terminal, csv or one of `FORMATS`. dataset, where, sort: see `comparisons`. metrics: the
    columns of numbers; if empty, those of the kind of table. rows, columns: fields of a `pivot`; if
    empty, a leaderboard per data set and protocol. compared: None, or rows to compare pair by pair
    (if empty, all) by the first of `metrics`. gap: whether leaderboards say how much of the gap
    between direct transfer and supervised a row closes. caption, layout: of `latex`.
    """

    store: str = "results/runs"
    style: str = "terminal"
    dataset: str | None = None
    where: str | None = None
    sort: str | None = None
    metrics: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    selection: str | None = None
    reverse: bool = False
    compared: tuple[str, ...] | None = None
    output: str | None = None
    gap: bool = False
    caption: str = "short"
    layout: str = "wide"

    @property
    def pivots(self) -> bool:
        return bool(self.rows or self.columns)

    @property
    def scores(self) -> tuple[str, ...]:
        """The metrics of all but leaderboards."""
        return self.metrics or MAIN

    @property
    def condition(self) -> str | None:
        # label_free is followed by its criterion
        chosen = self.selection and f"selection.str.startswith('{self.selection}')"
        if self.where and chosen:
            return f"({self.where}) and {chosen}"
        return self.where or chosen


def show(options: Options, tables: Sequence[Table] | None = None) -> None:
    """Print or write the tables.

    Args:
        tables: made elsewhere, instead of those that the options describe.

    Raises:
        ConfigError: nothing to show, an unknown row or column, or options that exclude each other.
    """
    if options.style == "terminal" and options.output is not None:
        hint = f"Choose another: {', '.join(FORMATS)} or csv."
        raise ConfigError("--format terminal writes to no file.", hint)
    if options.pivots and options.compared is not None:
        raise ConfigError("--compare excludes --rows, --columns and --by-dataset.")
    plain = tables is None and not options.pivots and options.compared is None
    if plain:
        check_metrics(options.metrics, values() | COSTS)
    store = expanded(options.store)
    found, groups = list(Store(store).runs()), list[Comparison]()
    chosen = (options.dataset, options.condition, options.sort)
    if tables is None and options.pivots:
        rows = options.rows or ("method",)
        tables = pivot(found, store, rows, options.columns, options.scores, *chosen)
    elif tables is None:
        groups = list(comparisons(store, *chosen, found, options.gap))
        if options.gap and all(group.bounds is None for group in groups):
            print(NO_BOUNDS, file=sys.stderr)
        narrow = options.layout == "narrow"
        if options.compared is not None:
            tables = _compared(groups, options.compared, options.scores[0], narrow)
        elif options.style != "csv":
            tables = [leaderboard(comparison, options.metrics, narrow) for comparison in groups]
    tables = list(tables or ())
    if options.reverse and options.compared is None:
        tables = [replace(t, rows=t.rows[::-1], methods=t.methods[::-1]) for t in tables]
    for problem in record_problems(found):
        print(problem, file=sys.stderr)
    if options.style == "terminal":
        for table in tables:
            _print(table, () if options.metrics else LEAST)
    elif options.style == "csv":
        _write(_csv(groups, options) if plain else _plain_csv(tables), options.output)
    else:
        if options.style == "latex":
            text = latex(tables, options.caption, options.layout)
        else:
            text = FORMATS[options.style](tables)
        if options.style == "markdown" and plain:
            text = f"{_head(found)}\n{text}"
        _write(text, options.output)
        if options.style == "latex" and options.output is not None:
            path = expanded(options.output).with_suffix(".bib")
            write_text(path, bibliography(text))
            print(f"{options.output}, and {path} for \\bibliography", file=sys.stderr)


def _compared(
    found: Sequence[Comparison], names: Sequence[str], metric: str, narrow: bool
) -> list[Table]:
    """Differences of rows, in every table that has them all."""
    labels = sorted({str(name) for comparison in found for name in comparison.rows["method"]})
    for name in names:
        if name not in labels:
            raise ConfigError(f"There is no row '{name}'.", did_you_mean(name, labels))
    if len(names) == 1:
        others = ", ".join(label for label in labels if label != names[0])
        cause = f"--compare {names[0]} names one row, and a comparison takes two."
        raise ConfigError(cause, f"Name another: {others}." if others else "")
    tables = []
    for comparison in found:
        if len(found) > 1 and not set(names) <= set(comparison.rows["method"]):
            continue  # another data set, or protocol
        if pairs := compare(comparison, names, metric):
            tables.append(differences(comparison, pairs, narrow))
    if not tables:
        raise ConfigError(
            f"No table has {' and '.join(names) or 'two methods'}: there is nothing to compare.",
            "Rows are compared within one protocol and data set, as harness table shows them.",
        )
    return tables


def _head(found: Sequence[Run]) -> str:
    """The page's heading, with the day of its latest record: the same records, the same page."""
    days = frame(found)["finished"].dropna()
    return HEAD.format(finished=f" up to {days.max()}" if len(days) else "")


def _csv(found: Sequence[Comparison], options: Options) -> str:
    """All numbers unrounded, for other programs."""
    left_out = {*METRICS, *COSTS, "seeds"}.difference(options.metrics) if options.metrics else set()
    frames = []
    for group in found:
        rows = group.rows.drop(columns=["name", "final"]).assign(
            dataset=group.dataset, data=group.data, source_data=group.source_data,
            not_as_published=group.unlike,
            protocol=group.card["name"], protocol_hash=group.card["hash"],
            runs=group.rows["runs"].map(" ".join),
        )  # fmt: skip
        rows = rows[[key for key in rows.columns if key.removesuffix("_std") not in left_out]]
        frames.append(rows[::-1] if options.reverse else rows)
    return pd.concat(frames).to_csv(index=False)


def _plain_csv(tables: Sequence[Table]) -> str:
    """Tables as they are displayed; the first of two or more columns names the table."""
    frames = []
    for table in tables:
        texts = [[cell.text for cell in row] for row in table.rows]
        frame = pd.DataFrame(texts, columns=[column.heading for column in table.columns])
        if len(tables) > 1:
            frame.insert(0, "Table", ": ".join([table.title, *table.notes[:1]]))
        frames.append(frame)
    return pd.concat(frames).to_csv(index=False)


def _write(text: str, output: str | None) -> None:
    if output is None:
        print(text, end="")
    else:
        write_text(expanded(output), text)


def _print(table: Table, least: Sequence[str]) -> None:
    """In the terminal; of the `least` important columns a narrow one leaves out the first ones, as
    many as do not fit.
    """
    console, measuring = Console(highlight=False), Console(width=1000)
    grid, left_out = _grid(table), 0
    if not console.is_terminal:  # a file or pipe has any width
        console = Console(highlight=False, width=max(measuring.measure(grid).maximum, 100))
    names = {name for column in table.columns for name in (column.title, column.heading)}
    least = [name for name in least if name in names]
    while measuring.measure(grid).maximum > console.width and left_out < len(least):
        left_out += 1
        grid = _grid(table, least[:left_out])
    console.print(grid)
    if left_out:
        console.print(
            f"Not shown in so narrow a terminal: {', '.join(least[:left_out])}.", style="dim"
        )
    for note in table.notes:
        console.print(note, style="dim", markup=False)
    console.print()


def _grid(table: Table, leave_out: Sequence[str] = ()) -> rich_table.Table:
    style: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 2, 0, 0)}
    grid = rich_table.Table(title=table.title, title_justify="left", **style)
    shown = [
        place
        for place, column in enumerate(table.columns)
        if not {column.title, column.heading} & set(leave_out)
    ]
    for column in (table.columns[place] for place in shown):
        head = "\n".join(filter(None, (column.group, column.title)))
        grid.add_column(head, justify="right" if column.numeric else "left", vertical="bottom")
    for row in table.rows:
        grid.add_row(*(Text(row[p].text, STYLES.get(row[p].mark, "")) for p in shown))
    return grid


def show_published(style: str, dataset: str | None, output: str | None) -> None:
    """`harness table --published`."""
    if dataset is not None and dataset not in published.TITLES:
        hint = did_you_mean(dataset, published.TITLES)
        raise ConfigError(f"No published number is of data set '{dataset}'.", hint)
    if style == "csv":
        rows = published.table()
        rows = rows[rows["dataset"].isin([dataset] if dataset else published.TITLES)]
        text = rows.to_csv(index=False)
    elif style in ("terminal", "markdown"):  # Markdown reads well in a terminal too
        text = published.page(dataset)
    else:
        raise ConfigError(f"--published has no format {style}.", "Choose markdown or csv.")
    _write(text, output)
