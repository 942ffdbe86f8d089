"""Tables as they are written, whatever the format: columns, cells, and what stands below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.results.comparisons import METRICS, Comparison
from harness.results.significance_marks import LEVEL, Marks, Pair, chosen_on_test, marks

ORACLE = "best on test (oracle)"


@dataclass(frozen=True)
class Cell:
    """What stands in a cell: words, or a number with its deviation.

    mark: 'best' (bold), 'second' (underlined) or ''.
    """

    words: str = ""
    number: float | None = None
    std: float | None = None
    digits: int = 1
    mark: str = ""

    @property
    def text(self) -> str:
        """As plain text."""
        if self.number is None:
            return self.words
        spread = "" if self.std is None else f" ± {self.std:.{self.digits}f}"
        return f"{self.number:.{self.digits}f}{spread}"


@dataclass(frozen=True)
class Column:
    """A heading. group: a heading above it and its neighbours of the same group."""

    title: str
    numeric: bool = True
    group: str = ""


@dataclass(frozen=True)
class Sheet:
    """One table to be written.

    methods: what each row's method is called in its folder, '' if it has none; for citations.
    notes: sentences below it, the protocol first. kind: '' for methods by metrics, else what it
        is: `compare` or `pivot`.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    methods: tuple[str, ...]
    notes: tuple[str, ...]
    dataset: str = ""
    protocol: str = ""
    kind: str = ""


def number(value: Any, std: Any = None, digits: int = 1, mark: str = "") -> Cell:
    """A cell for a number, '–' if there is none."""
    if value is None or pd.isna(value):
        return Cell("–")
    return Cell("", float(value), None if std is None or pd.isna(std) else float(std), digits, mark)


def sheet(comparison: Comparison) -> Sheet:
    """A comparison's table: methods by metrics, seeds, throughput, published numbers."""
    rows = comparison.rows
    led = marks(comparison)
    columns = [Column("Method", numeric=False), Column("Cameras", numeric=False)]
    columns += [Column(title) for title in METRICS.values()]
    columns += [Column("Seeds"), Column("Images/s"), Column("Hours")]
    if gpus := bool(rows["gpu_hours"].notna().any()):
        columns.append(Column("GPU-hours"))
    shown = "published_mAP" in rows
    if shown:
        columns += [Column("mAP", group="Published"), Column("Rank-1", group="Published")]
    if oracle := bool((rows["selection"] != "last").any()):
        columns.append(Column("Checkpoint", numeric=False))
    body = []
    for row in rows.to_dict("records"):
        cells = [Cell(str(row["method"])), Cell(str(row["cameras"]))]
        for metric in METRICS:
            mark = mark_of(str(row["method"]), led.get(metric))
            cells.append(number(row[metric], row[f"{metric}_std"], mark=mark))
        cells.append(number(row["seeds"], digits=0))
        cells.append(number(row["images_per_second"], digits=0))
        cells.append(number(row["hours"], digits=2))
        if gpus:
            cells.append(number(row["gpu_hours"], digits=2))
        if shown:
            cells += [number(row.get("published_mAP")), number(row.get("published_rank1"))]
        if oracle:
            cells.append(Cell(ORACLE if row["selection"] == "oracle" else str(row["selection"])))
        body.append(tuple(cells))
    return Sheet(
        comparison.title,
        tuple(columns),
        tuple(body),
        tuple(rows["name"]),
        tuple(
            note
            for note in (
                comparison.warning,
                comparison.caption,
                comparison.searches,
                leading_note(led) or _why_none(rows),
                _where(rows),
                comparison.sources,
            )
            if note
        ),
        comparison.dataset,
        str(comparison.card["name"]),
    )


def differences(comparison: Comparison, pairs: Sequence[Pair]) -> Sheet:
    """Pairs of methods: difference, interval, p corrected for their number."""
    columns = (Column("A", numeric=False), Column("B", numeric=False), Column("A − B"),
               Column("from"), Column("to"), Column("p"),
               Column("Seeds", numeric=False))  # fmt: skip
    body = []
    for pair in pairs:
        d = pair.difference
        body.append((
            Cell(pair.a), Cell(pair.b),
            number(d.value, mark="best" if pair.p < 1 - LEVEL else ""),
            number(d.low), number(d.high), Cell(p_value(pair.p)),
            Cell(f"{d.seeds[0]}, {d.seeds[1]}"),
        ))  # fmt: skip
    metric = METRICS[pairs[0].metric] if pairs else "mAP"
    return Sheet(
        f"{metric} on {comparison.title}",
        columns,
        tuple(body),
        ("",) * len(body),
        tuple(filter(None, (_explained(pairs), comparison.warning, comparison.caption))),
        comparison.dataset,
        str(comparison.card["name"]),
        "compare",
    )


def p_value(p: float) -> str:
    """In three places."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _explained(pairs: Sequence[Pair]) -> str:
    if not pairs:
        return ""
    one = any(min(pair.difference.seeds) < 2 for pair in pairs)
    return (
        f"Points of per cent; {LEVEL:.0%} intervals of a paired bootstrap over "
        f"{pairs[0].difference.people} {'people' if pairs[0].by_person else 'queries'}"
        + (" (and seeds, where both have several)" if one else " and over seeds")
        + f"; p of no difference, corrected for {len(pairs)} comparison"
        + ("s" if len(pairs) > 1 else "")
        + " (Holm). Bold: significant."
        + (" With one seed only these very networks are compared, not the methods." if one else "")
    )


def mark_of(label: str, led: Marks | None) -> str:
    if led is None:
        return ""
    return "best" if label in led.best else "second" if label in led.second else ""


def leading_note(led: Mapping[str, Marks]) -> str:
    if not led:
        return ""
    return (
        "Bold: the best, and every row that is not significantly behind it (paired bootstrap, "
        f"p ≥ {1 - LEVEL:.2f} after Holm's correction). Underlined: the next."
    )


def _why_none(rows: pd.DataFrame) -> str:
    """Why nothing is bold where several rows compete; '' where none do."""
    if (rows["final"] & ~chosen_on_test(rows)).sum() < 2:
        return ""
    return (
        "Nothing is bold: the runs of some rows have no results by query (per_query.npz), or of "
        "other queries, so no lead can be tested."
    )


def _where(rows: pd.DataFrame) -> str:
    devices = sorted({str(device) for device in rows["device"] if device})
    return f"Hours and images/s on {'; '.join(devices)}." if devices else ""
