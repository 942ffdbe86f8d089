"""Comparisons: runs of one data set and protocol, one row per method, mean ± std over seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from harness.core.errors import ConfigError, did_you_mean, first_line
from harness.core.files import expanded
from harness.core.hashing import UNHASHED
from harness.core.metrics import METRICS
from harness.results import published, settings
from harness.results.measured_costs import MeasuredCosts, measurements
from harness.results.row_labels import add_row_labels, configurations
from harness.results.store import EXPERIMENT, Run, Store, frame

EXAMPLE = """Examples: --where "seed < 3 and cameras", --where "method == 'mskd'"."""
#: measured columns (see `measurements`) → their heading and decimals
COSTS = {"images_per_second": ("Images/s", 0), "hours": ("Hours", 2), "cost": ("Cost", 2)}
#: lines of the card that a run shares with the bounds of its gap
BOUNDED_BY = ("name", "backbone", "weights", "input", "evaluation")
#: selections that tables show in other words
CHECKPOINTS = {"oracle": "best on test (oracle)"}


@dataclass(frozen=True)
class Bounds:
    """The mAP of direct transfer and of the supervised upper bound, by their number of seeds."""

    floor: Mapping[int, float]
    ceiling: Mapping[int, float]

    def add(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows with `gap_closed`: (mAP − floor) / (ceiling − floor) in percent.

        It is missing where a bound with as many seeds is, or where the ceiling is not above.
        """
        closed = []
        for mean, seeds in zip(rows["mAP"], rows["seeds"], strict=True):
            floor, ceiling = self.floor.get(seeds, math.nan), self.ceiling.get(seeds, math.nan)
            closed.append(100 * (mean - floor) / (ceiling - floor) if ceiling > floor else math.nan)
        return rows.assign(gap_closed=closed)

    @property
    def note(self) -> str:
        return (
            "Gap closed: (mAP − floor) / (ceiling − floor) in percent, of direct_transfer "
            f"({_by_seeds(self.floor)}) and supervised ({_by_seeds(self.ceiling)}) runs with the "
            "same backbone, weights, input and number of seeds, with default options and the last "
            "checkpoint."
        )


def _by_seeds(found: Mapping[int, float]) -> str:
    return ", ".join(f"{value:.1f} with {n} seed{'s' * (n > 1)}" for n, value in found.items())


@dataclass(frozen=True)
class Comparison:
    """One table: its data set, its protocol card and its rows.

    data: the data's fingerprint where the store holds more than one set of this name, else ''.
    rows: method (the label), name (of the method), cameras, selection, tuned, published numbers,
        the columns of `summarize`, and `COSTS`, missing where nothing was measured; gap_closed if
        there are bounds, see `Bounds.add`.
    unlike: how the data differ from the published data set of this name; '' if they do not.
    costs: of the methods, if `harness bench methods` has measured them.
    shares_name: whether another table has a protocol of the same name, with other settings.
    source_data: the labeled source's fingerprint where the store holds more than one source of this
        name, else ''.
    searches: how the settings of tuned rows were found; '' if there are none.
    """

    dataset: str
    data: str
    card: dict[str, Any]
    rows: pd.DataFrame
    store: Path
    unlike: str = ""
    costs: MeasuredCosts | None = None
    shares_name: bool = False
    bounds: Bounds | None = None
    source_data: str = ""
    searches: str = ""

    @property
    def title(self) -> str:
        data = f"{self.dataset} (data {self.data})" if self.data else self.dataset
        data += ", not as published" * bool(self.unlike)
        words = settings.in_words(settings.of_card(self.card), self.source_data)
        return ", ".join(filter(None, [data, words, f"protocol {self.card['name']}"]))

    @property
    def unique_title(self) -> str:
        """The title, with what tells protocols of the same name apart."""
        if not self.shares_name:
            return self.title
        told = filter(None, [self.card.get("backbone"), self.card["hash"]])
        return f"{self.title} ({', '.join(told)})"

    @property
    def warning(self) -> str:
        return warning(self.unlike)

    @property
    def caption(self) -> str:
        return caption(self.card, self.rows["selection"])

    @property
    def sources(self) -> str:
        """Where the published numbers were read; '' if there are none."""
        if "published_in" not in self.rows:
            return ""
        rows = self.rows.dropna(subset=["published_in"])
        read = "; ".join(rows["method"] + ": " + rows["published_in"])
        return f"Published numbers were read in, for {read}."


def caption(card: Mapping[str, Any], selections: Iterable[str]) -> str:
    """What a table holds equal, as a sentence: the card of any row, the selections of all."""
    shown = {key: value for key, value in card.items() if key not in UNHASHED and key != "name"}
    if len(how := set(selections)) == 1:
        shown["selection"] = how.pop()
    held = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in shown.items())
    return f"Protocol `{card['name']}` ({card['hash']}): {held}."


def warning(unlike: str) -> str:
    """A note on data that differ from what was published; '' if they do not."""
    note = "These images are not the published data set; their numbers compare with no paper's"
    return f"{note} ({unlike})." if unlike else ""


def comparisons(
    store: str | Path, dataset: str | None = None, where: str | None = None,
    sort: str | None = None, found: Iterable[Run] | None = None, gap: bool = False,
) -> Iterator[Comparison]:  # fmt: skip
    """The tables of a store, by data set; those with more methods first.

    Args:
        dataset: only this one. where: a condition on the columns of `store.frame`, as pandas'
            query takes it ("seed < 3 and cameras"). sort: a metric (best last; by default mAP), a
            cost or `method`. found: the store's runs, if they have been read already. gap: whether
            rows say how much of the gap between the `Bounds` they close, where these exist.

    Raises:
        ConfigError: there is no such run, or the condition or sort key is not valid.
    """
    store = expanded(store)
    found = list(Store(store).runs()) if found is None else list(found)
    runs = selected(found, store, dataset, where, sort)
    protocols = {run.name: run.record["protocol"] for run in found if run.finished}
    datasets = {run.name: run.record["dataset"] for run in found if run.finished}
    cards = {card["hash"]: card for card in protocols.values()}
    tables, key = ["dataset", "data", "source_data", "protocol_hash"], sort or "mAP"
    best_last = key not in METRICS or METRICS[key].higher_is_better
    configs = configurations(runs["run"], store)
    runs = add_row_labels(runs, configs, tables)
    alike = ["dataset", "protocol", "setting"]
    hashes = runs.groupby(alike)["protocol_hash"].nunique().to_dict()
    for (name, _, _, protocol), group in sorted(runs.groupby(tables), key=_largest_first):
        unlike, data = max(group["unlike"]), group["shown_data"].iloc[0]
        source = group["shown_source"].iloc[0]
        measured = measurements(store, datasets[group["run"].iloc[0]], cards[protocol])
        rows, costs = _rows(group, configs, cards[protocol], unlike, measured)
        rows = rows.sort_values(
            key, ascending=best_last, kind="stable", na_position="first", ignore_index=True
        )
        card = cards[protocol]
        shared = hashes[name, card["name"], settings.of_card(card)] > 1
        bounds = _bounds(found, store, group.iloc[0], card) if gap else None
        rows = rows if bounds is None else bounds.add(rows)
        yield Comparison(
            str(name), data, card, rows, store, unlike, costs, shared, bounds, source,
            _searches(protocols[runs[0]] for runs in rows["runs"]),
        )  # fmt: skip


def _searches(cards: Iterable[Mapping[str, Any]]) -> str:
    """How the settings of rows with these cards were found; '' if none were searched."""
    found = {}
    for tuned in filter(None, (card.get("tuned") for card in cards)):
        found[tuned["search"]] = f"{tuned['trials']} trials, optimizing {tuned['by']}"
    searches = "; ".join(f"{name}: {text}" for name, text in found.items())
    return f"Searches that settings come from: {searches}." if searches else ""


def _largest_first(table: tuple[Any, pd.DataFrame]) -> tuple[Any, ...]:
    """By data; the tables of the same data by their number of methods, the largest first."""
    (*data, protocol), group = table
    return *data, -group["method"].nunique(), protocol


def _bounds(
    found: Sequence[Run], store: Path, like: pd.Series, card: Mapping[str, Any]
) -> Bounds | None:
    """The bounds on the data of a row, of runs whose network and input are those of its card.

    Their checkpoint is the last, and their options are the defaults. Where such runs differ in
    other lines of the card, those of this very card count; without any, there is no bound.
    """
    held = [run for run in found if run.finished and _same(run.record["protocol"], card)]
    runs = frame(held)
    if runs.empty:
        return None
    runs = runs[(runs["dataset"] == like["dataset"]) & (runs["data"] == like["data"])]
    runs = runs[runs["final"] & (runs["tuned"] == "") & (runs["selection"] == "last")]
    kinds = {"direct_transfer": settings.USL, "supervised": settings.SUPERVISED}
    means: list[dict[int, float]] = []
    for method, setting in kinds.items():
        own = runs[(runs["method"] == method) & (runs["setting"] == setting)]
        if own.empty:
            return None
        own = own.drop_duplicates([*EXPERIMENT, "stage"])
        if (like["protocol_hash"] == own["protocol_hash"]).any():
            own = own[own["protocol_hash"] == like["protocol_hash"]]
        own = add_row_labels(own, configurations(own["run"], store), ["protocol_hash"])
        own = own[own["method"] == own["name"]]
        groups = own.groupby("settings").agg(seeds=("seed", "nunique"), mAP=("mAP", "mean"))
        groups = groups.drop_duplicates("seeds", keep=False)
        means.append({int(n): float(mAP) for n, mAP in groups.itertuples(index=False)})
    return Bounds(*means) if all(means) else None


def _same(card: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(card.get(key) == other.get(key) for key in BOUNDED_BY)


def selected(
    found: Sequence[Run], store: Path, dataset: str | None, where: str | None, sort: str | None
) -> pd.DataFrame:
    """The `frame` of finished runs without duplicates, with `shown_data` and `shown_source`: the
    fingerprints where the store holds more than one data set, or labeled source, of this name, else
    ''. Arguments as of `comparisons`.

    Raises:
        ConfigError: there is no such run, or the condition or sort key is not valid.
    """
    if sort is not None and sort not in (keys := [*METRICS, *COSTS, "method"]):
        raise ConfigError(f"--sort {sort}: there is no such column.", did_you_mean(sort, keys))
    runs = frame(found)
    if runs.empty:
        damaged = sum(run.problem is not None for run in found)
        raise no_finished_runs(store, damaged)
    if dataset is not None:
        if dataset not in (names := set(runs["dataset"])):
            hint = did_you_mean(dataset, names)
            raise ConfigError(f"No finished run is of data set '{dataset}'.", hint)
        runs = runs[runs["dataset"] == dataset]
    shown = _where_several(runs, "data", ["dataset"])
    source = _where_several(runs, "source_data", ["dataset", "data", "setting"])
    runs = filtered(runs, where) if where is not None else runs
    return runs.assign(shown_data=shown, shown_source=source).drop_duplicates(
        [*EXPERIMENT, "stage"]
    )


def _where_several(runs: pd.DataFrame, fingerprint: str, names: list[str]) -> pd.Series:
    """A column of fingerprints, emptied where what `names` name has one only."""
    several = runs.groupby(names)[fingerprint].transform("nunique") > 1
    return runs[fingerprint].where(several, "")


def no_finished_runs(store: Path, damaged: int) -> ConfigError:
    """The error of a store without finished runs."""
    cause = f"There are no finished runs in {store}"
    if damaged:
        hint = "harness list problems says what is wrong with each."
        return ConfigError(f"{cause} ({damaged} damaged).", hint)
    return ConfigError(f"{cause}.", "Make one: harness run method=mskd dataset=synthetic.")


def filtered(runs: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows for which a condition holds.

    Raises:
        ConfigError: it is not a condition on these columns, or nothing is left.
    """
    try:
        fits = runs.eval(where, engine="python")
        if not isinstance(fits, pd.Series) or fits.dtype != bool:
            raise ValueError("it is not true or false for each run")
        kept = runs[fits]
    except Exception as error:  # pandas raises what Python's parser and operators raise
        hint = EXAMPLE
        if unknown := re.search(r"name '(\w+)' is not defined", str(error)):
            hint = f"{did_you_mean(unknown[1], runs.columns)} {EXAMPLE}"
        raise ConfigError(f"--where '{where}': {first_line(error)}.", hint) from error
    if kept.empty:
        raise ConfigError(
            f"No finished run fits '{where}'.",
            "Without --where and --selection, harness table shows all of them.",
        )
    return kept


def summarize(runs: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """One row per group: the mean and `_std` of each metric, the number of seeds, device, runs
    (names), and (of the first run) name, stage and final.

    A mean over seeds of which one lacks the metric is missing, and so is the std of a single seed.
    """
    groups = runs.groupby(list(keys), sort=False, dropna=False)
    metrics = groups[[key for key in METRICS if key not in keys]]
    first = [key for key in ("name", "stage", "final") if key not in keys]
    std = metrics.agg(_std).add_suffix("_std")
    table = metrics.agg(_mean).join([std, groups[first].first()])
    table["seeds"] = groups["seed"].nunique()
    if "device" not in keys:
        table["device"] = groups["device"].agg(
            lambda d: ", ".join(sorted(set(d.dropna().map(str))))
        )
    table["runs"] = groups["run"].agg(tuple)
    return table.reset_index()


def _mean(values: pd.Series) -> float:
    return float(values.mean(skipna=False))


def _std(values: pd.Series) -> float:
    return float(values.std(skipna=False))


def _rows(
    runs: pd.DataFrame, configs: Mapping[str, Mapping[str, Any]], card: Mapping[str, Any],
    unlike: str, measured: Sequence[MeasuredCosts],
) -> tuple[pd.DataFrame, MeasuredCosts | None]:  # fmt: skip
    """One row per label and whatever else must not be averaged; and the measurement of costs that
    fits most rows, the last one of several, or None if none fits.
    """
    keys = ["method", "name", "stage", "final", "changed", "cameras", "selection", "tuned"]
    dataset = runs["dataset"].iloc[0]
    found: list[dict[Any, Any]] = summarize(runs, keys).to_dict("records")
    for row in found:
        if row["final"] and not (row["changed"] or row["tuned"] or unlike):
            cameras, setting = bool(row["cameras"]), settings.of_card(card)
            row |= published.beside(dataset, card["name"], row["name"], cameras, setting)
        row["cameras"] = "yes" if row["cameras"] else "no"
    fits = [[one.of_run(row, configs[row["runs"][0]]) for row in found] for one in measured]
    some = [at for at, costs in enumerate(fits) if any(costs)]
    best = max(some, key=lambda at: (sum(map(bool, fits[at])), at), default=None)
    for row, cost in zip(found, [{}] * len(found) if best is None else fits[best], strict=True):
        row |= dict.fromkeys(COSTS) | cost
    rows = pd.DataFrame(found).astype(dict.fromkeys(COSTS, float)).drop(columns="changed")
    return rows, None if best is None else measured[best]
