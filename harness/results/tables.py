"""`harness table`: comparisons of what was run, in the terminal or as text for papers.

Runs of different protocols never share a table. Published numbers stand in columns of their own,
and only beside runs whose protocol is meant to reproduce them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.core.errors import ConfigError, did_you_mean
from harness.core.files import write_text
from harness.experiment import cross_domain as transfers
from harness.results import published
from harness.results import table_model as sheets
from harness.results.comparisons import Comparison, comparisons
from harness.results.formats import html, latex, markdown
from harness.results.formats.latex import bibliography
from harness.results.pivots import pivot
from harness.results.significance_marks import compare
from harness.results.store import Run, Store, frame
from harness.results.store_check import of_records
from harness.results.table_model import Sheet

HEAD = """\
# Leaderboard

Made by `harness table --format markdown` from records{finished}; not to be edited.
Per cent, mean ± standard deviation over seeds. Rows of different protocols or data never share a
table. Cameras: whether the method sees them, be it in its sampler only. "Images/s" is training
throughput.
"""
FORMATS: dict[str, Callable[[Sequence[Sheet]], str]] = {
    "markdown": markdown, "latex": latex, "html": html,
}  # fmt: skip
STYLES = {"best": "bold", "second": "underline"}


@dataclass(frozen=True)
class Options:
    """What `harness table` is told.

    store: folder of runs. style: terminal, csv or one of `FORMATS`. dataset, where, sort: see
    `comparisons`. rows, columns: fields of a `pivot`, which shows `metrics`; none of them: a table
    a data set and protocol. compared: None, or rows to compare pair by pair (none of them: all), by
    the first of `metrics`. selection: only runs whose checkpoint was chosen so. reverse: best
    first. output: a file, or None for the screen. cross: methods and what they were trained on by
    what they were tested on.
    """

    store: str = "results/runs"
    style: str = "terminal"
    dataset: str | None = None
    where: str | None = None
    sort: str | None = None
    metrics: tuple[str, ...] = ("mAP", "rank1")
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    selection: str | None = None
    reverse: bool = False
    compared: tuple[str, ...] | None = None
    output: str | None = None
    cross: bool = False

    @property
    def pivots(self) -> bool:
        """Whether fields stand by fields."""
        return bool(self.rows or self.columns)

    @property
    def condition(self) -> str | None:
        """`where` and `selection` together."""
        # label_free names its criterion, too
        chosen = self.selection and f"selection.str.startswith('{self.selection}')"
        return " and ".join(f"({text})" for text in (self.where, chosen) if text) or None


def show(options: Options) -> None:
    """Print or write the tables.

    Raises:
        ConfigError: nothing to show, a row or column that does not exist, options that exclude
            each other.
    """
    if options.style == "terminal" and options.output is not None:
        raise ConfigError(f"--output needs --format {', '.join(FORMATS)} or csv.")
    if options.cross and (options.pivots or options.compared is not None):
        raise ConfigError("--cross excludes --rows, --columns, --by-dataset and --compare.")
    if options.pivots and options.compared is not None:
        raise ConfigError("--compare excludes --rows, --columns and --by-dataset.")
    store = Path(options.store)
    found = list(Store(store).runs())
    plain = not (options.pivots or options.cross or options.compared is not None)
    if options.cross:
        pages = transfers.sheets(store, options.dataset, options.condition, options.metrics)
    elif options.pivots:
        pages = pivot(
            found, store, options.rows or ("method",), options.columns, options.metrics,
            options.dataset, options.condition, options.sort,
        )  # fmt: skip
    else:
        tables = list(
            comparisons(store, options.dataset, options.condition, options.sort, found=found)
        )
        if options.compared is None:
            pages = [] if options.style == "csv" else [sheets.sheet(table) for table in tables]
        else:
            pages = _compared(tables, options.compared, options.metrics[0])
    if options.reverse and options.compared is None:
        pages = [replace(p, rows=p.rows[::-1], methods=p.methods[::-1]) for p in pages]
    for problem in of_records(found):
        print(problem, file=sys.stderr)
    if options.style == "terminal":
        for page in pages:
            _print(page)
    elif options.style == "csv":
        _write(_csv(tables, options.reverse) if plain else _plain_csv(pages), options.output)
    else:
        text = FORMATS[options.style](pages)
        if options.style == "markdown" and plain:
            text = f"{_head(found)}\n{text}"
        _write(text, options.output)
        if options.style == "latex" and options.output is not None:
            path = Path(options.output).with_suffix(".bib")
            write_text(path, bibliography(pages))
            print(f"{options.output}, and {path} for \\bibliography", file=sys.stderr)


def _compared(tables: Sequence[Comparison], names: Sequence[str], metric: str) -> list[Sheet]:
    """Differences of rows, in every table that has them all."""
    there = sorted({str(name) for table in tables for name in table.rows["method"]})
    for name in names:
        if name not in there:
            raise ConfigError(f"There is no row '{name}'.", did_you_mean(name, there))
    if len(names) == 1:
        others = ", ".join(name for name in there if name != names[0])
        raise ConfigError(
            f"--compare {names[0]} names one row, and a comparison takes two.",
            f"Name another: {others}." if others else "",
        )
    found = []
    for table in tables:
        if len(tables) > 1 and not set(names) <= set(table.rows["method"]):
            continue  # another data set, or protocol
        if pairs := compare(table, names, metric):
            found.append(sheets.differences(table, pairs))
    if not found:
        raise ConfigError(
            f"No table has {' and '.join(names) or 'two methods'}: there is nothing to compare.",
            "Rows are compared within one protocol and data set, as harness table shows them.",
        )
    return found


def _head(found: Sequence[Run]) -> str:
    """The page's heading, with the day of its latest record: the same records, the same page."""
    days = frame(found)["finished"].dropna()
    return HEAD.format(finished=f" up to {days.max()}" if len(days) else "")


def _csv(tables: Sequence[Comparison], reverse: bool) -> str:
    """All numbers as they are, for other programs."""
    frames = [
        (table.rows[::-1] if reverse else table.rows)
        .assign(
            dataset=table.dataset,
            data=table.data,
            not_as_published=table.unlike,
            protocol=table.card["name"],
            protocol_hash=table.card["hash"],
            runs=table.rows["runs"].map(" ".join),
        )
        .drop(columns=["name", "final"])
        for table in tables
    ]
    return pd.concat(frames).to_csv(index=False)


def _plain_csv(pages: Sequence[Sheet]) -> str:
    """Tables as they are read by people; of several, a first column says which."""
    frames = []
    for page in pages:
        heads = [" ".join(filter(None, (column.group, column.title))) for column in page.columns]
        frame = pd.DataFrame([[c.text for c in row] for row in page.rows], columns=heads)
        if len(pages) > 1:
            frame.insert(0, "Table", f"{page.title}: {page.notes[0]}" if page.notes else page.title)
        frames.append(frame)
    return pd.concat(frames).to_csv(index=False)


def _write(text: str, output: str | None) -> None:
    if output is None:
        print(text, end="")
    else:
        write_text(Path(output), text)


def _print(page: Sheet) -> None:
    """In the terminal; a narrow one has no room for some columns."""
    console = Console(highlight=False)
    grid = _grid(page)
    width = Console(width=1000).measure(grid).maximum
    if not console.is_terminal:  # a file or pipe is as wide as need be
        console = Console(highlight=False, width=max(width, 100))
    elif width > console.width:
        grid = _grid(page, leave_out=("Rank-5", "Rank-10", "Hours"))
    console.print(grid)
    for note in page.notes:
        console.print(note, style="dim", markup=False)
    console.print()


def _grid(page: Sheet, leave_out: Sequence[str] = ()) -> Table:
    title = page.title
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    shown = [place for place, column in enumerate(page.columns) if column.title not in leave_out]
    for place in shown:
        column = page.columns[place]
        head = "\n".join(filter(None, (column.group, column.title)))
        grid.add_column(head, justify="right" if column.numeric else "left", vertical="bottom")
    for row in page.rows:
        grid.add_row(*(Text(row[p].text, STYLES.get(row[p].mark, "")) for p in shown))
    return grid


def show_published(style: str, dataset: str | None, output: str | None) -> None:
    """`harness table --published`."""
    if dataset is not None and dataset not in published.TITLES:
        raise ConfigError(
            f"No published number is of data set '{dataset}'.",
            did_you_mean(dataset, published.TITLES),
        )
    if style == "csv":
        rows = published.table()
        text = rows[rows["dataset"].isin([dataset] if dataset else published.TITLES)].to_csv(
            index=False
        )
    elif style in ("terminal", "markdown"):  # in a terminal too: it reads well as it is
        text = published.page(dataset)
    else:
        raise ConfigError(f"--published has no format {style}.", "Choose markdown or csv.")
    _write(text, output)
