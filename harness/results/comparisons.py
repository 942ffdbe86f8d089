"""What may be compared: runs of one data set and protocol; a row a method, mean ± std of seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.core.errors import ConfigError, did_you_mean
from harness.core.hashing import UNHASHED
from harness.results import published
from harness.results.row_labels import crossings, variants
from harness.results.store import Run, Store, frame

#: columns that tell two runs of one cell from two repeats
ONE_CELL = ["method", "dataset", "data", "protocol_hash", "settings", "seed"]
#: what a cell costs, as columns
COSTS = ("images_per_second", "hours", "gpu_hours")
METRICS = {"mAP": "mAP", "rank1": "Rank-1", "rank5": "Rank-5", "rank10": "Rank-10", "mINP": "mINP"}


@dataclass(frozen=True)
class Comparison:
    """One table: its data set, its protocol card and its rows.

    data: the data's fingerprint where the store holds several of this name, else ''.
    rows: method (the label), cameras, selection, tuned, seeds, each metric with its _std,
        images_per_second, hours and gpu_hours (of the whole cell, in its last stage's
        row), device, published
        numbers; and where they come from: runs (names) and stage.
    store: where the runs are.
    unlike: how the data differ from the published data set of this name; '' if they do not.
    """

    dataset: str
    data: str
    card: dict[str, Any]
    rows: pd.DataFrame
    store: Path
    unlike: str = ""

    @property
    def title(self) -> str:
        """Data set and protocol."""
        data = f" (data {self.data})" if self.data else ""
        data += ", not as published" if self.unlike else ""
        return f"{self.dataset}{data}, protocol {self.card['name']}"

    @property
    def warning(self) -> str:
        """What is wrong with the data; '' if nothing is known to be."""
        return warning(self.unlike)

    @property
    def caption(self) -> str:
        """What was held equal, in words."""
        return caption(self.card, self.rows["selection"])

    @property
    def held(self) -> str:
        """What was held equal as `key value; key value`."""
        return held(self.card, self.rows["selection"])

    @property
    def searches(self) -> str:
        """How the settings of tuned rows were found; '' if there are none."""
        told = {}
        for row in self.rows[self.rows["tuned"] != ""].to_dict("records"):
            tuned = Run(Path(self.store) / str(row["runs"][0])).record["protocol"]["tuned"]
            told[tuned["search"]] = f"{tuned['trials']} trials, optimising {tuned['by']}"
        searches = "; ".join(f"{name}: {text}" for name, text in told.items())
        return f"Searches that settings come from: {searches}." if told else ""

    @property
    def sources(self) -> str:
        """Where the published numbers of its rows were read; '' if it has none."""
        if "published_in" not in self.rows:
            return ""
        rows = self.rows.dropna(subset=["published_in"])
        pairs = zip(rows["method"], rows["published_in"], strict=True)
        read = "; ".join(": ".join(map(str, pair)) for pair in pairs)
        return f"Published numbers were read in, for {read}."


def held(card: Mapping[str, Any], selections: Iterable[str]) -> str:
    """What rows have in common, as `key value; key value`.

    Args:
        card: any one row's protocol card. selections: of all rows, as they may differ in it.
    """
    shown = {key: value for key, value in card.items() if key not in UNHASHED and key != "name"}
    how = sorted(set(selections))
    if len(how) == 1:
        shown["selection"] = how[0]
    return "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in shown.items())


def caption(card: Mapping[str, Any], selections: Iterable[str]) -> str:
    """What a table holds equal, in words; arguments as those of `held`."""
    return f"Protocol `{card['name']}` ({card['hash']}): {held(card, selections)}."


def warning(unlike: str) -> str:
    """What is to be said of data that differ from what was published; '' if they do not."""
    if not unlike:
        return ""
    return (
        "These images are not the published data set; their numbers compare with no paper's "
        f"({unlike})."
    )


def comparisons(
    store: str | Path,
    dataset: str | None = None,
    where: str | None = None,
    sort: str | None = None,
    found: Iterable[Run] | None = None,
) -> Iterator[Comparison]:
    """The tables of a store.

    Args:
        dataset: only this one. where: a condition on the columns of `store.load`, as pandas' query
            takes it ("seed < 3 and cameras"). sort: a metric (best last; mAP if
            it is None), or `method`.
        found: the store's runs, where they have been read already.

    Raises:
        ConfigError: nothing finished, nothing of that data set, nothing left, or a condition or
            sort key that is none.
    """
    store = Path(store)
    found = list(Store(store).runs()) if found is None else list(found)
    runs = finished(found, store, dataset)
    if sort is not None:
        check_sort(sort)
    cards = {run.record["protocol"]["hash"]: run.record["protocol"]
             for run in found if run.finished}  # fmt: skip
    several = runs.groupby("dataset")["data"].nunique() > 1
    if where is not None:
        runs = filtered(runs, where)
    # the same cell under two names (name=…) is one repeat, not two; `problems` tells of it
    runs = runs.drop_duplicates([*ONE_CELL, "stage"])
    runs = runs.assign(crossing=crossings(runs, store))
    for key, group in runs.groupby(["dataset", "data", "protocol_hash"], sort=True):
        name, data, protocol = map(str, key)
        if dataset in (None, name):
            unlike = max(group["unlike"])  # records from before the check have ''
            rows = _rows(group, name, cards[protocol], store, bool(unlike))
            rows = rows.sort_values(sort or "mAP", kind="stable", na_position="first")
            rows = rows.reset_index(drop=True)
            shown = data if several[name] else ""
            yield Comparison(name, shown, cards[protocol], rows, store, unlike)


def finished(found: Iterable[Run], store: Path, dataset: str | None = None) -> pd.DataFrame:
    """The table of finished runs.

    Raises:
        ConfigError: there is none, or none of that data set.
    """
    found = list(found)
    runs = frame(found)
    if runs.empty:
        damaged = sum(run.problem is not None for run in found)
        raise ConfigError(
            f"There are no finished runs in {store}"
            + (f" ({damaged} damaged: harness list runs)." if damaged else "."),
            "Make one: harness run method=mskd dataset=synthetic.",
        )
    if dataset is not None and dataset not in set(runs["dataset"]):
        raise ConfigError(
            f"No finished run is of data set '{dataset}'.", did_you_mean(dataset, runs["dataset"])
        )
    return runs


def check_sort(sort: str) -> None:
    """Refuse a sort key that is no column."""
    if sort not in (keys := [*METRICS, *COSTS, "method"]):
        raise ConfigError(f"--sort {sort}: there is no such column.", did_you_mean(sort, keys))


def filtered(runs: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows for which a condition holds.

    Raises:
        ConfigError: it is no condition on these columns, or nothing is left.
    """
    try:
        kept = runs.query(where, engine="python")
    except Exception as error:  # pandas raises what Python's parser and operators raise
        raise ConfigError(
            f"--where '{where}': {error}.",
            f'Columns are {", ".join(runs.columns)}; for example --where "seed < 3".',
        ) from error
    if not isinstance(kept, pd.DataFrame):
        raise ConfigError(f"--where '{where}' is no condition.")
    if kept.empty:
        raise ConfigError(
            f"No finished run fits '{where}'.",
            "Without --where and --selection, harness table shows all of them.",
        )
    return kept


def averages(runs: pd.DataFrame, metrics: Iterable[str]) -> dict[str, float]:
    """Mean of each metric over runs, and `_std`: NaN for a single one."""
    found: dict[str, float] = {}
    for metric in metrics:
        values = runs[metric].to_numpy(dtype=float)
        found[metric] = float(values.mean())
        found[f"{metric}_std"] = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    return found


def costs(runs: pd.DataFrame, final: bool) -> dict[str, float]:
    """Medians over runs of `COSTS`; hours are the whole cell's, and stand with its last stage."""
    found = {"images_per_second": _median(runs["images_per_second"])}
    found["hours"] = _median(runs["seconds"]) / 3600 if final else math.nan
    found["gpu_hours"] = _median(runs["gpu_hours"]) if final else math.nan
    return found


def _median(column: pd.Series) -> float:
    """NaN where there is no number."""
    values = column.to_numpy(dtype=float)
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else math.nan


def _rows(
    runs: pd.DataFrame, dataset: str, card: dict[str, Any], store: Path, unlike: bool
) -> pd.DataFrame:
    """One row a method, stage, crossing and variant."""
    runs = runs.assign(variant=variants(runs, store))
    rows = []
    keys = ["method", "stage", "final", "crossing", "variant", "cameras", "selection", "tuned"]
    for values, group in runs.groupby(keys, sort=False):
        method, stage, final, crossing, variant, cameras, selection, tuned = values
        label = method if final else f"{method} ({stage})"
        apart = ", ".join(str(text) for text in (crossing, variant, tuned) if text)
        row: dict[str, Any] = {
            "method": f"{label} [{apart}]" if apart else label,
            "cameras": "yes" if cameras else "no",
            "selection": selection,
            "tuned": tuned,
            "seeds": group["seed"].nunique(),
        }
        row |= averages(group, METRICS) | costs(group, bool(final))
        row["device"] = ", ".join(sorted({str(d) for d in group["device"].dropna()}))
        row["final"] = bool(final)
        row["name"], row["stage"] = str(method), str(stage)
        row["runs"] = tuple(group["run"])
        if final and not crossing and not unlike and not tuned:
            row |= published.beside(dataset, card["name"], str(method), bool(cameras))
        rows.append(row)
    return pd.DataFrame(rows)
