"""`harness table`: comparisons of what was run, in the terminal or as text for papers.

Runs of different protocols never share a table. Published numbers stand in columns of their own,
and only beside runs whose protocol is meant to reproduce them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.errors import ConfigError, did_you_mean
from harness.files import write_text
from harness.results import published, sheets
from harness.results.comparisons import METRICS, Comparison, comparisons
from harness.results.formats import html, latex, markdown
from harness.results.formats.latex import bibliography
from harness.results.leads import compare
from harness.results.sheets import Sheet
from harness.results.problems import of_records
from harness.results.store import Run, Store, frame

HEAD = """\
# Leaderboard

Made by `harness table --format markdown` from records{finished}; not to be edited. Per cent, mean ± standard
deviation over seeds. Rows of different protocols or data never share a table. Cameras: whether the
method sees them, be it in its sampler only. "Images/s" is training throughput.
"""
FORMATS: dict[str, Callable[[Sequence[Sheet]], str]] = {
    "markdown": markdown, "latex": latex, "html": html,
}  # fmt: skip
STYLES = {"best": "bold", "second": "underline"}


@dataclass(frozen=True)
class Options:
    """What `harness table` is told.

    store: folder of runs. style: terminal, csv or one of `FORMATS`. dataset, where, sort: see
    `comparisons`. metrics: columns of `by_dataset`. by_dataset: methods by data sets. compared: None,
    or rows to compare pair by pair (none of them: all). output: a file, or None for the screen.
    """

    store: str = "results/runs"
    style: str = "terminal"
    dataset: str | None = None
    where: str | None = None
    sort: str = "mAP"
    metrics: tuple[str, ...] = ("mAP", "rank1")
    by_dataset: bool = False
    compared: tuple[str, ...] | None = None
    output: str | None = None


def show(options: Options) -> None:
    """Print or write the tables.

    Raises:
        ConfigError: nothing to show, a row or column that does not exist, options that exclude
            each other.
    """
    for metric in options.metrics:
        if metric not in METRICS:
            raise ConfigError(f"There is no metric '{metric}'.", did_you_mean(metric, METRICS))
    if options.style == "terminal" and options.output is not None:
        raise ConfigError(f"--output needs --format {', '.join(FORMATS)} or csv.")
    found = list(Store(Path(options.store)).runs())
    tables = list(
        comparisons(options.store, options.dataset, options.where, options.sort, found=found)
    )
    for problem in of_records(found):
        print(problem, file=sys.stderr)
    if options.style == "csv" and not options.by_dataset and options.compared is None:
        _write(_csv(tables), options.output)
        return
    pages = _sheets(tables, options)
    if options.style == "terminal":
        for page in pages:
            _print(page)
    elif options.style == "csv":
        _write("\n".join(_plain_csv(page) for page in pages), options.output)
    else:
        text = FORMATS[options.style](pages)
        if options.style == "markdown" and not options.by_dataset and options.compared is None:
            text = f"{_head(found)}\n{text}"
        _write(text, options.output)
        if options.style == "latex" and options.output is not None:
            path = Path(options.output).with_suffix(".bib")
            write_text(path, bibliography(pages))
            print(f"{options.output}, and {path} for \\bibliography", file=sys.stderr)


def _sheets(tables: Sequence[Comparison], options: Options) -> list[Sheet]:
    if options.compared is not None:
        if options.by_dataset:
            raise ConfigError("--compare and --by-dataset exclude each other.")
        found = []
        for table in tables:
            rows = set(table.rows["method"])
            if len(tables) > 1 and not set(options.compared) <= rows:
                continue  # another data set, or protocol
            pairs = compare(table, options.compared, options.metrics[0])
            if pairs:
                found.append(sheets.differences(table, pairs))
        if not found:
            names = " and ".join(options.compared) or "two methods"
            raise ConfigError(
                f"No table has {names}: there is nothing to compare.",
                "Rows are called as harness table shows them.",
            )
        return found
    if options.by_dataset:
        return sheets.pivot(tables, options.metrics)
    return [sheets.sheet(table) for table in tables]


def _head(found: Sequence[Run]) -> str:
    """The page's heading, with the day of its latest record: the same records, the same page."""
    days = frame(found)["finished"].dropna()
    return HEAD.format(finished=f" up to {days.max()}" if len(days) else "")


def _csv(tables: Sequence[Comparison]) -> str:
    """All numbers as they are, for other programs."""
    frames = [
        table.rows.assign(
            dataset=table.dataset,
            data=table.data,
            not_as_published=table.unlike,
            protocol=table.card["name"],
            protocol_hash=table.card["hash"],
            runs=table.rows["runs"].map(" ".join),
        ).drop(columns=["name", "final"])
        for table in tables
    ]
    return pd.concat(frames).to_csv(index=False)


def _plain_csv(page: Sheet) -> str:
    heads = [" ".join(filter(None, (column.group, column.title))) for column in page.columns]
    return pd.DataFrame([[c.text for c in row] for row in page.rows], columns=heads).to_csv(
        index=False
    )


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
