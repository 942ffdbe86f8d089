"""Any field of the records by any other: `harness table --rows method --columns dataset`.

A field is a column of `harness.results.load()` (method, dataset, seed, selection, device, …), a
line of the protocol card (precision, input, …) or an option of the configuration (labeler.eps).
Cells are means over seeds and over nothing else: what differs besides the fields asked for stands
in a column of its own, and runs of other protocols in a table of their own, unless the protocol,
or the line in which they differ, is one of the fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from harness.core.errors import ConfigError, did_you_mean
from harness.core.hashing import card_hash
from harness.results.comparisons import (
    COSTS,
    METRICS,
    ONE_CELL,
    averages,
    caption,
    check_sort,
    costs,
    filtered,
    finished,
    warning,
)
from harness.results.published import TITLES
from harness.results.row_labels import config_or_none, crossings, flat, variants
from harness.results.significance_marks import PER_QUERY, Entry, Marks, chosen_on_test, leading
from harness.results.store import Run
from harness.results.table_model import ORACLE, Cell, Column, Sheet, leading_note, mark_of, number

#: what a table can show → its heading and digits
VALUES = {
    **{metric: (title, 1) for metric, title in METRICS.items()},
    "images_per_second": ("Images/s", 0), "hours": ("Hours", 2), "gpu_hours": ("GPU-hours", 2),
    "seeds": ("Seeds", 0),
}  # fmt: skip
#: what stands in a column of its own where it differs and is no field of the table
ALWAYS = ("method", "cameras", "selection")
#: fields whose values say what they are
PLAIN = ("method", "dataset", "protocol", "stage", "selection", "device")
HEADINGS = {"method": "Method", "cameras": "Cameras", "selection": "Checkpoint",
            "dataset": "Data set", "protocol": "Protocol", "seed": "Seed"}  # fmt: skip


def pivot(
    found: Iterable[Run],
    store: Path,
    rows: Sequence[str] = ("method",),
    columns: Sequence[str] = ("dataset",),
    metrics: Sequence[str] = ("mAP", "rank1"),
    dataset: str | None = None,
    where: str | None = None,
    sort: str | None = None,
) -> list[Sheet]:
    """Tables of fields by fields, one for each protocol and whatever else must not be mixed.

    Args:
        found: the store's runs. rows, columns: fields. metrics: keys of `VALUES`. dataset, where,
            sort: as of `comparisons`; if no sort is given, methods that do better come last, and
            other fields are in their own order.

    Raises:
        ConfigError: nothing to show, or a field, metric, condition or sort key that does not exist.
    """
    found = list(found)
    runs = finished(found, store, dataset)
    if dataset is not None:
        runs = runs[runs["dataset"] == dataset]
    for metric in metrics:
        if metric not in VALUES:
            raise ConfigError(f"There is no metric '{metric}'.", did_you_mean(metric, VALUES))
    if sort is not None:
        check_sort(sort)
    if where is not None:
        runs = filtered(runs, where)
    if both := set(rows) & set(columns):
        raise ConfigError(f"{', '.join(sorted(both))} cannot be rows and columns at once.")
    cards = {run.name: run.record["protocol"] for run in found if run.finished}
    table = _Fields(runs, store, cards, [*rows, *columns]).table
    apart = ["held", *(["dataset", "data"] if "dataset" not in (*rows, *columns) else [])]
    return [
        _Pivot(group.assign(), rows, columns, metrics, sort, store, cards).sheet()
        for _, group in table.groupby(apart, sort=True)
    ]


class _Fields:
    """Runs with what is asked for as columns: `method` is the row's label, `held` the hash of what
    is held equal and is no field of the table.
    """

    def __init__(
        self,
        runs: pd.DataFrame,
        store: Path,
        cards: Mapping[str, Mapping[str, Any]],
        fields: Sequence[str],
    ) -> None:
        self.store, self.cards = store, cards
        runs = runs.drop_duplicates([*ONE_CELL, "stage"])
        if "stage" not in fields:
            runs = runs[runs["final"]]
        runs = runs.assign(crossing=crossings(runs, store), name=runs["method"])
        runs = runs.assign(variant=self._variants(runs, fields))
        apart = runs[["crossing", "variant", "tuned"]].apply(
            lambda row: ", ".join(text for text in row if text), axis=1, result_type="reduce"
        )
        new = {"method": runs["method"] + apart.map(lambda text: f" [{text}]" if text else "")}
        new["cameras"] = runs["cameras"].map({True: "yes", False: "no"})
        lines = {key for card in cards.values() for key in card} - set(runs.columns)
        known = {*runs.columns, *lines}
        configs: dict[str, dict[str, Any]] = {}
        for field in fields:
            if field in runs.columns:
                continue
            if field in lines:
                new[field] = _words(runs, (cards[run].get(field) for run in runs["run"]))
                continue
            configs = configs or {
                run: flat(config_or_none(store / run) or {}) for run in runs["run"].unique()
            }
            if not any(field in config for config in configs.values()):
                known |= {key for config in configs.values() for key in config}
                raise ConfigError(f"There is no field '{field}'.", did_you_mean(field, known))
            new[field] = _words(runs, (configs[run].get(field) for run in runs["run"]))
        new["held"] = runs["run"].map(lambda run: _held(cards[run], fields))
        names = runs.groupby("protocol")["protocol_hash"].nunique()
        several = runs["protocol"].map(names) > 1
        new["protocol"] = runs["protocol"].where(
            ~several, runs["protocol"] + " (" + runs["protocol_hash"] + ")"
        )
        self.table = runs.assign(**new)

    def _variants(self, runs: pd.DataFrame, fields: Sequence[str]) -> pd.Series:
        keys = ["dataset", "data", "protocol_hash"]
        parts = [variants(group, self.store, fields) for _, group in runs.groupby(keys)]
        return pd.concat(parts)


def _words(runs: pd.DataFrame, values: Iterable[Any]) -> pd.Series:
    """A column of values that compare with themselves: '–' where there is none."""
    plain = [
        "–" if value is None else value if isinstance(value, int | float) else str(value)
        for value in values
    ]
    return pd.Series(plain, index=runs.index, dtype=object)


def _held(card: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Hash of what is held equal besides the fields of a table; '' where the protocol is one."""
    if {"protocol", "protocol_hash"} & set(fields):
        return ""
    return card_hash({key: value for key, value in card.items() if key not in fields})


class _Pivot:
    """One table."""

    def __init__(
        self,
        runs: pd.DataFrame,
        rows: Sequence[str],
        columns: Sequence[str],
        metrics: Sequence[str],
        sort: str | None,
        store: Path,
        cards: Mapping[str, Mapping[str, Any]],
    ) -> None:
        shown = [
            key
            for key in ALWAYS
            if key not in (*rows, *columns) and self._stands(runs, key, [*rows, *columns])
        ]
        self.asked, self.rows, self.columns = rows, [*rows, *shown], columns
        self.metrics, self.sort = metrics, sort
        self.store = store
        self.cards = {cards[run]["hash"]: cards[run] for run in runs["run"]}
        several = runs.groupby("dataset")["data"].nunique() > 1
        titles = runs["dataset"].map(lambda name: TITLES.get(name, name))
        titles = titles.where(~runs["dataset"].map(several), titles + " " + runs["data"])
        self.runs = runs.assign(title=titles)
        #: row → column → its runs
        self.cells: dict[tuple[Any, ...], dict[tuple[Any, ...], pd.DataFrame]] = {}
        keys = [self._column(key) for key in (*self.rows, *self.columns)]
        for values, group in self.runs.groupby(keys, sort=False, dropna=False):
            row, column = values[: len(self.rows)], values[len(self.rows) :]
            self.cells.setdefault(row, {})[column] = group
        self.across = sorted({c for row in self.cells.values() for c in row}, key=_natural)

    def _stands(self, runs: pd.DataFrame, key: str, fields: Sequence[str]) -> bool:
        """Whether something that is no field needs a column: else a cell would mix its values. The
        checkpoint's choice is shown wherever it was the test's.
        """
        if key == "cameras" and fields[0] == "method":
            return True
        if key == "selection" and set(runs[key]) - {"last"}:
            return True
        keys = [*fields, "data"] if "dataset" in fields else list(fields)
        return bool((runs.groupby(keys, dropna=False)[key].nunique() > 1).any())

    def _selections(self, protocol: str) -> list[str]:
        return self.runs.loc[self.runs["protocol_hash"] == protocol, "selection"].tolist()

    def _column(self, key: str) -> str:
        return "title" if key == "dataset" else key

    def sheet(self) -> Sheet:
        """The table, written."""
        led = {column: self._marks(column) for column in self.across}
        heads = [Column(HEADINGS.get(key, key), numeric=False) for key in self.rows]
        heads += [
            Column(VALUES[metric][0], group=self._heading(column))
            for column in self.across
            for metric in self.metrics
        ]
        order = sorted(self.cells, key=self._order)
        body = []
        for row in order:
            cells = [
                Cell(self._text(key, value)) for key, value in zip(self.rows, row, strict=True)
            ]
            for column in self.across:
                cells += self._values(row, column, led[column])
            body.append(tuple(cells))
        names = [{n for g in self.cells[row].values() for n in g["name"]} for row in order]
        unlike = sorted({text for text in self.runs["unlike"] if text})
        notes = [
            *map(warning, unlike),
            *(caption(card, self._selections(key)) for key, card in self.cards.items()),
        ]
        notes.append(leading_note({k: v for marks in led.values() for k, v in marks.items()}))
        data = self.runs["title"].unique() if "dataset" not in (*self.rows, *self.columns) else ()
        protocols = sorted({card["name"] for card in self.cards.values()})
        return Sheet(
            ", ".join([*map(str, data), f"protocol {', '.join(protocols)}"]),
            tuple(heads),
            tuple(body),
            tuple(next(iter(n)) if len(n) == 1 else "" for n in names),
            tuple(filter(None, notes)),
            dataset=str(self.runs["dataset"].iloc[0]) if len(data) == 1 else "",
            protocol=protocols[0] if len(protocols) == 1 else "",
            kind="pivot",
        )

    def _values(
        self, row: tuple[Any, ...], column: tuple[Any, ...], led: Mapping[str, Marks]
    ) -> Iterator[Cell]:
        runs = self.cells[row].get(column)
        found = {} if runs is None else _summary(runs)
        for metric in self.metrics:
            mark = mark_of(str(row), led.get(metric))
            digits = VALUES[metric][1]
            yield number(found.get(metric), found.get(f"{metric}_std"), digits, mark)

    def _marks(self, column: tuple[Any, ...]) -> Mapping[str, Marks]:
        """Which rows of a column lead, where all are of one data set and protocol."""
        cells = {str(row): found[column] for row, found in self.cells.items() if column in found}
        cells = {label: runs for label, runs in cells.items() if not chosen_on_test(runs).any()}
        one = pd.concat(cells.values()) if cells else self.runs.iloc[:0]
        if any(one[key].nunique() > 1 for key in ("dataset", "data", "protocol_hash", "final")):
            return {}
        entries = [Entry(label, tuple(runs["run"]), str(runs["stage"].iloc[0]))
                   for label, runs in cells.items()]  # fmt: skip
        scores = {
            metric: {label: float(runs[metric].mean()) for label, runs in cells.items()}
            for metric in self.metrics
            if metric in PER_QUERY
        }
        return leading(self.store, entries, scores) if scores else {}

    def _order(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        """Where a row stands: rows of more columns and better ones last, or by the fields."""
        if self.sort == "method" or (self.sort is None and "method" not in self.asked):
            return _natural(row)
        key = self.sort or "mAP"
        values = [_summary(runs)[key] for runs in self.cells[row].values()]
        values = [value for value in values if value == value]
        return (len(self.cells[row]), sum(values) / len(values) if values else float("-inf"))

    def _heading(self, column: tuple[Any, ...]) -> str:
        """Above a column: the values of its fields, named where they do not say what they are."""
        return ", ".join(
            self._text(key, value) if key in PLAIN else f"{key} {self._text(key, value)}"
            for key, value in zip(self.columns, column, strict=True)
        )

    def _text(self, key: str, value: Any) -> str:
        if key == "selection":
            return ORACLE if value == "oracle" else str(value)
        return "–" if value is None or value != value else str(value)


def _summary(runs: pd.DataFrame) -> dict[str, float]:
    """All that a cell can show."""
    found = averages(runs, METRICS) | costs(runs, bool(runs["final"].all()))
    return {**found, "seeds": float(runs["seed"].nunique())}


def _natural(values: Sequence[Any]) -> tuple[Any, ...]:
    """Numbers by size, before words by the alphabet."""
    return tuple(
        (0, float(v), "") if isinstance(v, int | float) and v == v else (1, 0.0, str(v))
        for v in values
    )


assert set(COSTS) <= set(VALUES)
