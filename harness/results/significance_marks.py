"""Significance marks: the best row of a metric, and all that are not significantly behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.core.errors import ConfigError, did_you_mean
from harness.core.metrics import METRICS, in_tables
from harness.core.tuned import ORACLE
from harness.results.comparisons import Comparison
from harness.results.significance import Bootstrap, Difference, holm
from harness.results.store_check import UNREADABLE

#: the level of intervals, and of what is called significant
LEVEL = 0.95


@dataclass(frozen=True)
class Pair:
    """Two rows of a table and their difference in a metric, in percentage points.

    p: corrected for all pairs that were compared with it. by_identity: whether queries of one
        identity were drawn together, or each on its own.
    """

    a: str
    b: str
    metric: str
    difference: Difference
    p: float
    by_identity: bool


@dataclass(frozen=True)
class Entry:
    """A row to be compared: its label, its runs, and the stage that was tested."""

    label: str
    runs: tuple[str, ...]
    stage: str


@dataclass(frozen=True)
class SignificanceMarks:
    """Rows of a metric that are printed bold (no row is significantly better) and underlined."""

    best: frozenset[str]
    second: frozenset[str]

    def of(self, label: str) -> str:
        """'best', 'second' or ''."""
        return "best" if label in self.best else "second" if label in self.second else ""


class Queries:
    """Per-query results of the entries that kept them for the same queries."""

    def __init__(self, store: Path, entries: Sequence[Entry]) -> None:
        self._identities: np.ndarray | None = None
        found = {entry.label: self._read(store, entry) for entry in entries}
        #: label → array of `Metric.arrays` → its values (S, Q), of seeds and queries
        self.arrays = {label: arrays for label, arrays in found.items() if arrays is not None}
        if len({len(arrays["first_match_rank"][0]) for arrays in self.arrays.values()}) > 1:
            self.arrays = {}
        self._means: dict[tuple[str, str], tuple[float, np.ndarray]] = {}

    def _read(self, store: Path, entry: Entry) -> dict[str, np.ndarray] | None:
        """What all runs of an entry kept; None without ranks, or if runs had other queries."""
        runs = []
        for run in entry.runs:
            try:
                with np.load(store / run / "per_query.npz") as file:
                    stored = {key.removeprefix(f"{entry.stage}_"): key for key in file.files}
                    wanted = {name for metric in METRICS.values() for name in metric.arrays}
                    runs.append({name: file[stored[name]] for name in wanted & stored.keys()})
                    if self._identities is None and "query_identity" in stored:
                        self._identities = file["query_identity"]
            except UNREADABLE:
                return None
        names = set.intersection(*(set(arrays) for arrays in runs))
        lengths = {len(array) for arrays in runs for array in arrays.values()}
        if "first_match_rank" not in names or len(lengths) != 1:
            return None
        return {name: np.stack([arrays[name] for arrays in runs]) for name in names}

    @cached_property
    def _valid(self) -> np.ndarray:
        """(Q,) the queries that have a correct match: the same for all."""
        ranks = [arrays["first_match_rank"] for arrays in self.arrays.values()]
        return np.all([(rank > 0).all(0) for rank in ranks], axis=0)

    @property
    def by_identity(self) -> bool:
        """Whether the identities of the queries are known."""
        return self._identities is not None and len(self._identities) == len(self._valid)

    @cached_property
    def bootstrap(self) -> Bootstrap | None:
        """Draws that all comparisons share; None for fewer than two identities."""
        if not self.arrays:
            return None
        drawn = self._identities if self.by_identity else np.arange(len(self._valid))
        assert drawn is not None
        drawn = drawn[self._valid]
        return Bootstrap(drawn) if len(np.unique(drawn)) >= 2 else None

    def has(self, label: str, metric: str) -> bool:
        """Whether an entry kept the arrays of a metric."""
        return set(METRICS[metric].arrays) <= self.arrays.get(label, {}).keys()

    def pairs(self, pairs: Sequence[tuple[str, str]], metric: str) -> list[Pair]:
        """Differences of rows, with p-values corrected for this many (Holm, 1979)."""
        found = [self._difference(a, b, metric) for a, b in pairs]
        corrected = holm([difference.p for difference in found])
        return [
            Pair(a, b, metric, difference, p, self.by_identity)
            for (a, b), difference, p in zip(pairs, found, corrected, strict=True)
        ]

    def _difference(self, a: str, b: str, metric: str) -> Difference:
        assert self.bootstrap is not None
        for label in (a, b):
            if (label, metric) not in self._means:
                arrays = {
                    name: values[:, self._valid] for name, values in self.arrays[label].items()
                }
                values = 100.0 * METRICS[metric].values(arrays).astype(float)
                self._means[label, metric] = float(values.mean()), self.bootstrap.means(values)
        (mean_a, means_a), (mean_b, means_b) = self._means[a, metric], self._means[b, metric]
        return self.bootstrap.difference(mean_a - mean_b, means_a, means_b, LEVEL)


def chosen_on_test(rows: pd.DataFrame) -> pd.Series:
    """Of which rows the checkpoint or the settings were chosen on the test set."""
    return (rows["selection"] == "oracle") | rows["tuned"].str.contains(ORACLE, regex=False)


def significance_marks(comparison: Comparison) -> dict[str, SignificanceMarks]:
    """Metric → marks. Competing are last stages whose checkpoint and settings were not chosen on
    the test set. A metric without per-query results of every competing row has no marks.
    """
    rows = comparison.rows
    competing = rows[rows["final"] & ~chosen_on_test(rows)]
    scores = {
        key: dict(zip(competing["method"], competing[key], strict=True)) for key in in_tables()
    }
    return mark_entries(Path(comparison.store), _entries(competing.to_dict("records")), scores)


def mark_entries(
    store: Path, entries: Sequence[Entry], scores: Mapping[str, Mapping[str, float]]
) -> dict[str, SignificanceMarks]:
    """Metric → marks of entries that were tested on the same queries.

    Args:
        scores: metric → label → mean over seeds, in percent.
    """
    if len(entries) < 2:
        return {}
    queries = Queries(store, entries)
    found = {}
    for metric, means in scores.items():
        tested = all(queries.has(e.label, metric) for e in entries)
        if queries.bootstrap is None or not tested or np.isnan(list(means.values())).any():
            continue
        order = _best_first(means, metric)
        behind = queries.pairs([(order[0], other) for other in order[1:]], metric)
        best = {order[0], *(pair.b for pair in behind if pair.p >= 1 - LEVEL)}
        rest = [label for label in order if label not in best]
        found[metric] = SignificanceMarks(frozenset(best), frozenset(rest[:1]))
    return found


def _best_first(means: Mapping[str, float], metric: str) -> list[str]:
    sign = -1 if METRICS[metric].higher_is_better else 1
    return sorted(means, key=lambda label: sign * means[label])


def _entries(rows: Iterable[Mapping[Any, Any]]) -> list[Entry]:
    return [Entry(str(r["method"]), tuple(r["runs"]), str(r["stage"])) for r in rows]


def compare(comparison: Comparison, names: Sequence[str], metric: str = "mAP") -> list[Pair]:
    """All pairs of the rows that are named, the better one first.

    Args:
        names: labels of rows; if empty, all last stages.

    Raises:
        ConfigError: there is no such row, or its runs kept no per-query results.
    """
    if metric not in METRICS:
        raise ConfigError(
            f"{metric} cannot be compared query by query.", did_you_mean(metric, METRICS)
        )
    rows = comparison.rows
    by_label = {str(row["method"]): row for row in rows.to_dict("records")}
    queries = Queries(Path(comparison.store), _entries(by_label.values()))
    wanted = list(names) or rows[rows["final"]]["method"].tolist()
    for name in wanted:
        if name not in by_label:
            raise ConfigError(
                f"There is no row '{name}' in {comparison.title}.", did_you_mean(name, by_label)
            )
        if not queries.has(name, metric):
            raise ConfigError(
                f"The runs of '{name}' ({', '.join(by_label[name]['runs'])}) lack per-query "
                f"results of {metric} (per_query.npz), or have them for other queries.",
                "Add them: harness run … overwrite=only-missing; or run again: overwrite=always.",
            )
    if queries.bootstrap is None:
        raise ConfigError(
            f"The queries of {comparison.title} have fewer than two identities.",
            "A bootstrap over identities needs more.",
        )
    order = _best_first({name: float(by_label[name][metric]) for name in wanted}, metric)
    pairs = [(a, b) for place, a in enumerate(order) for b in order[place + 1 :]]
    return queries.pairs(pairs, metric)
