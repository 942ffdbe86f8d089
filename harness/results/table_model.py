"""Tables in any format: columns, cells with numbers and marks, and notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from harness.core.metrics import METRICS, in_tables
from harness.results.comparisons import CHECKPOINTS, COSTS, Comparison
from harness.results.significance_marks import (
    LEVEL,
    Marks,
    Pair,
    chosen_on_test,
    significance_marks,
)

#: metrics that narrow tables and pivots show by default
MAIN = ("mAP", "rank1")


@dataclass(frozen=True)
class Cell:
    """Text, or a number with its standard deviation.

    mark: 'best' (bold), 'second' (underlined) or ''.
    """

    words: str = ""
    number: float | None = None
    std: float | None = None
    digits: int = 1
    mark: str = ""

    @property
    def text(self) -> str:
        if self.number is None:
            return self.words
        spread = "" if self.std is None else f" ± {self.std:.{self.digits}f}"
        return f"{self.number:.{self.digits}f}{spread}"


@dataclass(frozen=True)
class Column:
    """A heading. group: a heading above it and its neighbours of the same group.

    named: whether its cells, or its group, name methods or data sets, for which papers have titles.
    """

    title: str
    numeric: bool = True
    group: str = ""
    named: bool = False

    @property
    def heading(self) -> str:
        return f"{self.group} {self.title}".strip()


@dataclass(frozen=True)
class Table:
    """One table.

    methods: the name of each row's method, '' if it has none. kind: '' for the leaderboard, else
    `compare`, `pivot` or `cross`. caption: a sentence that says what the table is. cards: those of
    the notes that say what a protocol holds equal.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    methods: tuple[str, ...]
    notes: tuple[str, ...]
    dataset: str = ""
    protocol: str = ""
    kind: str = ""
    caption: str = ""
    cards: tuple[str, ...] = ()

    @property
    def groups(self) -> list[tuple[str, int]]:
        """(heading, width) of the row above the headings; empty if no column has a group."""
        found = [(name, len(list(same))) for name, same in groupby(c.group for c in self.columns)]
        return found if any(name for name, _ in found) else []


def number(value: Any, std: Any = None, digits: int = 1, mark: str = "") -> Cell:
    """A cell for a number, '–' if it is missing."""
    if value is None or value == "–" or pd.isna(value):
        return Cell("–")
    return Cell("", float(value), None if std is None or pd.isna(std) else float(std), digits, mark)


def values() -> dict[str, tuple[str, int]]:
    """What a pivot can show of a row → its heading and decimals."""
    metrics = {key: (metric.label, metric.decimals) for key, metric in METRICS.items()}
    return {**metrics, "seeds": ("Seeds", 0)}


def numbers(row: Mapping[Any, Any], shown: Iterable[str], marks: Marks, label: str) -> list[Cell]:
    """The cells of a row for some of `values` and `COSTS`."""
    cells = []
    for key in shown:
        mark = marks.get(key, {}).get(label, "")
        digits = {**values(), **COSTS}[key][1]
        cells.append(number(row.get(key), row.get(f"{key}_std"), digits, mark))
    return cells


def in_words(seeds: Iterable[int]) -> str:
    """`one seed`, `3 seeds` or `1 to 3 seeds`."""
    low, high = min(seeds := list(seeds)), max(seeds)
    counts = str(high) if low == high else f"{low} to {high}"
    return "one seed" if high == 1 else f"{counts} seeds"


def percent(seeds: Iterable[int]) -> str:
    """What the numbers of a table are, whose rows have so many seeds each."""
    spread = "" if (words := in_words(seeds)) == "one seed" else "mean ± standard deviation over "
    return f"percent, {spread}{words}"


def leaderboard(comparison: Comparison, metrics: Sequence[str] = (), narrow: bool = False) -> Table:
    """The table of a comparison: methods by metrics, seeds, measured costs, published numbers.

    Args:
        metrics: keys of `values` and `COSTS`; if empty, all that there are, or two if narrow.
        narrow: leave out published numbers.
    """
    rows, costs = comparison.rows, comparison.costs
    marks = significance_marks(comparison)
    everything = [*in_tables(), "seeds", *(COSTS if costs else ())]
    shown = metrics or (MAIN if narrow else everything)
    headings = values() | COSTS
    if costs:
        headings["cost"] = f"Cost × {costs.reference}", COSTS["cost"][1]
    columns = [Column("Method", numeric=False, named=True), Column("Cameras", numeric=False)]
    columns += [Column(headings[key][0]) for key in shown]
    if comparison.bounds is not None:
        columns.append(Column("Gap closed"))
    papers = "published_mAP" in rows and not narrow
    in_papers = [key for key in MAIN if papers and key in shown]
    columns += [Column(METRICS[key].label, group="Published") for key in in_papers]
    if chosen := bool((rows["selection"] != "last").any()):
        columns.append(Column("Checkpoint", numeric=False))
    body = []
    for row in rows.to_dict("records"):
        cells = [Cell(row["method"]), Cell(row["cameras"])]
        cells += numbers(row, shown, marks, row["method"])
        if comparison.bounds is not None:
            cells.append(number(row["gap_closed"], None, 0))
        cells += [number(row[f"published_{key}"], None, METRICS[key].decimals) for key in in_papers]
        cells += [Cell(CHECKPOINTS.get(row["selection"], row["selection"]))] * chosen
        body.append(tuple(cells))
    notes = [
        comparison.warning, comparison.caption, comparison.searches,
        marks_note(
            {key: marks[key] for key in shown if key in marks},
            rows.loc[rows["final"], "seeds"], not rows["final"].all(),
        )
        if marks
        else _why_unmarked(rows),
        costs.note if costs and {*COSTS} & {*shown} else "",
        comparison.bounds.note if comparison.bounds else "",
        comparison.sources if in_papers else "",
    ]  # fmt: skip
    return Table(
        comparison.unique_title, tuple(columns), tuple(body), tuple(rows["name"]),
        tuple(filter(None, notes)), comparison.dataset, str(comparison.card["name"]),
        caption=f"Results on {comparison.unique_title}: {percent(rows['seeds'])}.",
        cards=(comparison.caption,),
    )  # fmt: skip


def differences(comparison: Comparison, pairs: Sequence[Pair], narrow: bool = False) -> Table:
    """Pairs of methods: difference, interval, and p corrected for the number of pairs.

    Args:
        narrow: leave out the numbers of seeds, which the caption has too.
    """
    heads = ("A", "B", "A − B", "from", "to", "p", *("Seeds",) * (not narrow))
    columns = tuple(
        Column(head, numeric=head not in ("A", "B", "Seeds"), named=head in ("A", "B"))
        for head in heads
    )
    body = []
    for pair in pairs:
        d = pair.difference
        value = number(d.value, mark="best" if pair.p < 1 - LEVEL else "")
        p = Cell("< 0.001" if pair.p < 0.001 else f"{pair.p:.3f}")
        cells = (Cell(pair.a), Cell(pair.b), value, number(d.low), number(d.high), p)
        body.append((*cells, *(Cell(f"{d.seeds[0]}, {d.seeds[1]}"),) * (not narrow)))
    notes = (_explained(pairs), comparison.warning, comparison.caption)
    seeds = in_words(n for pair in pairs for n in pair.difference.seeds)
    title = f"{METRICS[pairs[0].metric].label} on {comparison.unique_title}"
    return Table(
        title, columns, tuple(body),
        ("",) * len(body), tuple(filter(None, notes)), comparison.dataset,
        str(comparison.card["name"]), "compare",
        f"Differences in {title}: percentage points, {seeds}.", (comparison.caption,),
    )  # fmt: skip


def _explained(pairs: Sequence[Pair]) -> str:
    drawn = "identities" if pairs[0].by_identity else "queries"
    seeds, warning = " and over seeds", one_seed(n for pair in pairs for n in pair.difference.seeds)
    if warning:
        seeds = " (and seeds, where both have more than one)"
    return (
        f"Percentage points; {LEVEL:.0%} intervals of a paired bootstrap over "
        f"{pairs[0].difference.identities} {drawn}{seeds}; p under no difference, corrected for "
        f"{len(pairs)} comparison{'s' * (len(pairs) > 1)} (Holm). Bold: significant.{warning}"
    )


def one_seed(seeds: Iterable[int]) -> str:
    """What a difference means where a method has one seed; '' if none has."""
    told = " Where a row has one seed, single networks are compared, not methods."
    return told * (min(seeds) < 2)


def marks_note(marks: Marks, seeds: Iterable[int], earlier_stages: bool = False) -> str:
    """What bold and underlined mean; '' if nothing is marked.

    Args:
        seeds: the number of seeds of each row. earlier_stages: the table shows stages before the
            last, too.
    """
    if not marks:
        return ""
    return (
        "Bold: the best, and every row that is not significantly behind it (paired bootstrap, "
        f"p ≥ {1 - LEVEL:.2f} after Holm's correction). Underlined: the next."
        + " Stages before the last do not compete." * earlier_stages
        + one_seed(seeds)
    )


def _why_unmarked(rows: pd.DataFrame) -> str:
    """Why nothing is bold although at least two rows compete."""
    if (rows["final"] & ~chosen_on_test(rows)).sum() < 2:
        return ""
    return (
        "Nothing is bold: the runs of some rows have no per-query results (per_query.npz), or have "
        "them for other queries, so no difference can be tested."
    )
