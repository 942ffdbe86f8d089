"""Pivot tables: any field of the records by any other, as in `harness table --rows method`.

A field is a column of `harness.results.load()` (method, dataset, seed, selection, device, …), a
line of the protocol card (precision, input, …) or an option of the configuration (labeler.eps).
Values are means over seeds and over nothing else: whatever else differs gets a column of its own,
and runs of other protocols a table of their own, unless the protocol, or the line in which they
differ, is one of the fields.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from harness.core.errors import ConfigError, did_you_mean
from harness.core.hashing import card_hash
from harness.core.metrics import METRICS
from harness.results import settings
from harness.results.comparisons import CHECKPOINTS, COSTS, caption, selected, summarize, warning
from harness.results.published import TITLES
from harness.results.row_labels import Flat, add_row_labels, configurations
from harness.results.significance_marks import Marks, chosen_on_test, mark_rows
from harness.results.store import Run
from harness.results.table_model import (
    MAIN,
    Cell,
    Column,
    Table,
    marks_note,
    numbers,
    percent,
    values,
)

#: fields that get a column of their own where they differ
ALWAYS = ("method", "cameras", "selection")
#: fields whose values need no name beside them in a heading
PLAIN = ("method", "dataset", "protocol", "stage", "selection", "device", "tested_on")
#: fields of methods and data sets, for which papers have titles
NAMED = {"method", "dataset", "trained_on", "tested_on"}
HEADINGS = {"method": "Method", "cameras": "Cameras", "selection": "Checkpoint",
            "dataset": "Data set", "protocol": "Protocol", "seed": "Seed",
            "trained_on": "Trained on"}  # fmt: skip
Key = tuple[Any, ...]


def pivot(
    found: Iterable[Run], store: Path, rows: Sequence[str] = ("method",),
    columns: Sequence[str] = ("dataset",), metrics: Sequence[str] = MAIN,
    dataset: str | None = None, where: str | None = None, sort: str | None = None,
) -> list[Table]:  # fmt: skip
    """Tables of fields by fields, one for each protocol and whatever else must not be mixed.

    Args:
        rows, columns: fields. metrics: keys of `table_model.values`.
        dataset, where: as of `comparisons`. sort: a metric or `method`; without it,
            methods that do better come last, and other fields are in their own order.

    Raises:
        ConfigError: nothing to show, or a field, metric, condition or sort key that does not exist.
    """
    found, fields = list(found), [*rows, *columns]
    check_metrics(metrics, values())
    if both := set(rows) & set(columns):
        raise ConfigError(f"{', '.join(sorted(both))} cannot be rows and columns at once.")
    if sort in COSTS:
        cause = f"--sort {sort}: tables of fields show no measured costs."
        raise ConfigError(cause, "Sort by a metric or by method.")
    runs = selected(found, store, dataset, where, sort)
    if "stage" not in fields:
        runs = runs[runs["final"]]
    cards = {run.name: run.record["protocol"] for run in found if run.finished}
    configs = configurations(runs["run"], store)
    runs = add_row_labels(
        runs, configs, ["dataset", "data", "source_data", "protocol_hash"], fields
    )
    hashes = runs.groupby("protocol")["protocol_hash"].transform("nunique")
    runs["protocol"] += (" (" + runs["protocol_hash"] + ")").where(hashes > 1, "")
    source = (" (data " + runs["shown_source"] + ")").where(runs["shown_source"] != "", "")
    runs["setting"] += source  # a column of it does not mix sources
    runs["dataset_name"] = runs["dataset"]
    runs["dataset"] = (runs["dataset"].replace(TITLES) + " " + runs["shown_data"]).str.strip()
    for field in fields:
        if field not in runs.columns:
            runs[field] = _field(field, runs, cards, configs)
    runs["held"] = [
        ("" if "setting" in fields else settings.of_card(cards[run]))
        if {"protocol", "protocol_hash"} & set(fields)
        else card_hash({key: value for key, value in cards[run].items() if key not in fields})
        for run in runs["run"]
    ]  # fmt: skip
    apart = ["held", *(["dataset_name", "data"] if "dataset" not in fields else []),
             *(["source_data"] if "setting" not in fields else [])]  # fmt: skip
    tables = []
    for _, group in runs.groupby(apart, sort=True):
        held = {cards[run]["hash"]: cards[run] for run in group["run"]}
        selections = group.groupby("protocol_hash")["selection"].agg(list)
        held_equal = tuple(caption(card, selections[key]) for key, card in held.items())
        notes = [warning(unlike) for unlike in sorted(set(group["unlike"]) - {""})]
        protocols = ", ".join(sorted({card["name"] for card in held.values()}))
        data = "" if "dataset" in fields else f"{group['dataset'].iloc[0]}, "
        told = {
            settings.in_words(settings.of_card(cards[run]), source)
            for run, source in zip(group["run"], group["shown_source"], strict=True)
        }
        words = "" if "setting" in fields else "".join(f"{each}, " for each in told if each)
        table = pivoted(group, rows, columns, metrics, sort, store)
        title = f"{data}{words}protocol {protocols}"
        tables.append(replace(
            table, title=title, notes=(*notes, *held_equal, *table.notes),
            dataset=group["dataset_name"].iloc[0] if data else "", protocol=protocols,
            caption=f"Results {'on' if data else 'under'} {title}: {table.caption}.",
            cards=held_equal,
        ))  # fmt: skip
    return tables


def check_metrics(metrics: Iterable[str], known: Iterable[str]) -> None:
    """Raise ConfigError for a metric that is not among those known."""
    for metric in metrics:
        if metric not in (known := list(known)):
            raise ConfigError(f"There is no metric '{metric}'.", did_you_mean(metric, known))


def _field(
    field: str, runs: pd.DataFrame, cards: Mapping[str, Flat], configs: Mapping[str, Flat]
) -> pd.Series:
    """A line of the protocol card or an option; '–' where a run has none."""
    source = cards if any(field in card for card in cards.values()) else configs
    if not any(field in found for found in source.values()):
        known = {*runs.columns}.union(*cards.values(), *configs.values())
        raise ConfigError(f"There is no field '{field}'.", did_you_mean(field, known))
    found = [source[run].get(field) for run in runs["run"]]
    words = ["–" if v is None else v if isinstance(v, int | float) else str(v) for v in found]
    return pd.Series(words, index=runs.index, dtype=object)


def pivoted(
    runs: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], metrics: Sequence[str],
    sort: str | None = None, store: Path | None = None,
) -> Table:  # fmt: skip
    """The means of labelled runs, without a title. The caption says what the numbers are.

    Args:
        runs: with `rows` and `columns` as columns. sort: as of `pivot`. store: where per-query
            results are; if None, nothing is marked.
    """
    fields = [*rows, *columns]
    shown = [*rows, *(k for k in ALWAYS if k not in fields and _needs_column(k, runs, fields))]
    keys = [*shown, *columns]
    runs = runs.assign(
        competes=~chosen_on_test(runs),
        cameras=runs["cameras"].map({True: "yes", False: "no"}),
        selection=runs["selection"].replace(CHECKPOINTS),
    )
    runs[keys] = runs[keys].astype(object).where(runs[keys].notna(), "–")
    table: dict[Key, dict[Key, dict[Any, Any]]] = {}
    for found in summarize(runs, keys).to_dict("records"):
        key = tuple(found[field] for field in keys)
        table.setdefault(key[: len(shown)], {})[key[len(shown) :]] = found
    by_field = sort == "method" or (sort is None and "method" not in rows)
    order = sorted(
        table, key=_natural if by_field else lambda row: _rank(table[row].values(), sort or "mAP")
    )
    across = sorted({column for found in table.values() for column in found}, key=_natural)
    at = pd.Series(list(runs[list(columns)].itertuples(index=False, name=None)), runs.index)
    marks = {key: _marks(runs[at == key], shown, columns, metrics, store) for key in across}
    heads = [Column(HEADINGS.get(key, key), numeric=False, named=key in NAMED) for key in shown]
    for column in across:
        named = zip(columns, column, strict=True)
        group = ", ".join(str(v) if key in PLAIN else f"{key} {v}" for key, v in named)
        titled = bool(NAMED & set(columns))
        heads += [Column(values()[metric][0], group=group, named=titled) for metric in metrics]
    body, methods = [], []
    for row in order:
        cells = [Cell(str(value)) for value in row]
        for column in across:
            cells += numbers(table[row].get(column, {}), metrics, marks[column], str(row))
        body.append(tuple(cells))
        names = {str(found["name"]) for found in table[row].values()}
        methods.append(names.pop() if len(names) == 1 else "")
    seeds = [found["seeds"] for cells in table.values() for found in cells.values()]
    note = marks_note({k: mark for found in marks.values() for k, mark in found.items()}, seeds)
    return Table(
        "", tuple(heads), tuple(body), tuple(methods), (note,) * bool(note), kind="pivot",
        caption=percent(seeds),
    )  # fmt: skip


def _needs_column(key: str, runs: pd.DataFrame, fields: Sequence[str]) -> bool:
    """Whether a mean would mix values of something that is not a field. A checkpoint that was not
    the last one is always shown.
    """
    if key == "selection" and set(runs[key]) - {"last"}:
        return True
    if key == "cameras" and fields[0] == "method":
        return True
    return bool((runs.groupby(list(fields), dropna=False)[key].nunique() > 1).any())


def _marks(
    runs: pd.DataFrame, rows: Sequence[str], columns: Sequence[str], metrics: Sequence[str],
    store: Path | None,
) -> Marks:  # fmt: skip
    """Marks of a column whose competing runs are all of one data set and protocol."""
    runs = runs[runs["competes"]]
    same = ["dataset", "data", "source_data", "protocol_hash", "final"]
    if store is None or runs.empty or (runs[same].nunique() > 1).any():
        return {}
    found = summarize(runs, [*rows, *columns])
    labels = found[list(rows)].itertuples(index=False, name=None)
    found["method"] = [str(label) for label in labels]
    return mark_rows(store, found, [metric for metric in metrics if metric in METRICS])


def _rank(cells: Iterable[Mapping[Any, Any]], sort: str) -> tuple[int, float]:
    """Sorts rows of more columns, and better ones, last."""
    found = pd.Series([float(cell[sort]) for cell in cells])
    sign = 1 if sort not in METRICS or METRICS[sort].higher_is_better else -1
    mean = sign * float(found.mean())
    return len(found), -math.inf if math.isnan(mean) else mean


def _natural(values: Sequence[Any]) -> list[tuple[int, float, str]]:
    """Sorts numbers by size, before words by the alphabet."""
    return [(0, float(v), "") if isinstance(v, int | float) else (1, 0.0, str(v)) for v in values]
