"""Which rows of a table lead: the best, and all that are not significantly behind it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from harness.core.errors import ConfigError, did_you_mean
from harness.core.tuned import ORACLE
from harness.results import marks_cache as lead_cache
from harness.results.comparisons import Comparison
from harness.results.significance import Bootstrap, Difference, holm
from harness.results.store_check import UNREADABLE

#: the level of intervals, and what is called significant
LEVEL = 0.95
#: metric → its value for each query, from average precision and rank of the first match
PER_QUERY = {
    "mAP": lambda ap, first: ap,
    "rank1": lambda ap, first: first <= 1,
    "rank5": lambda ap, first: first <= 5,
    "rank10": lambda ap, first: first <= 10,
}


@dataclass(frozen=True)
class Pair:
    """Two rows of a table and their difference in a metric, in points of per cent.

    p: corrected for all pairs that were compared with it. by_person: whether queries of one person
        were drawn together, or each on its own.
    """

    a: str
    b: str
    metric: str
    difference: Difference
    p: float
    by_person: bool


@dataclass(frozen=True)
class Entry:
    """What is compared: a row's label, its runs, and the stage that was tested."""

    label: str
    runs: tuple[str, ...]
    stage: str

    def files(self, store: Path) -> list[Path]:
        """Where its results by query are kept."""
        return [store / run / "per_query.npz" for run in self.runs]


class Queries:
    """What every query of a test set found, by entry; read once."""

    def __init__(self, store: Path, entries: Sequence[Entry]) -> None:
        self.store, self.entries = store, {entry.label: entry for entry in entries}
        self._values: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._drawn: dict[tuple[str, str], tuple[float, np.ndarray]] = {}
        self._identities: np.ndarray | None = None

    @cached_property
    def known(self) -> list[str]:
        """Entries whose runs all kept results by query, for the same queries."""
        found = [label for label, entry in self.entries.items() if self._read(entry)]
        counts = {self._values[label][0].shape[1] for label in found}
        return found if len(counts) <= 1 else []

    def _read(self, entry: Entry) -> bool:
        ap, first = [], []
        for path in entry.files(self.store):
            try:
                with np.load(path) as arrays:
                    ap.append(arrays[f"{entry.stage}_ap"])
                    first.append(arrays[f"{entry.stage}_first_match_rank"])
                    if self._identities is None and "query_identity" in arrays:
                        self._identities = arrays["query_identity"]
            except UNREADABLE:
                return False
        if len({len(values) for values in ap}) != 1:
            return False
        self._values[entry.label] = np.stack(ap).astype(float), np.stack(first)
        return True

    @cached_property
    def _valid(self) -> np.ndarray:
        """(Q,) the queries that have a correct image to find: the same for all."""
        return np.all([(self._values[label][1] > 0).all(0) for label in self.known], axis=0)

    @cached_property
    def bootstrap(self) -> Bootstrap | None:
        """Draws that all comparisons share; none of fewer than two people."""
        people = self._identities
        if people is None or len(people) != len(self._valid):
            people = np.arange(len(self._valid))
        people = people[self._valid]
        return Bootstrap(people) if len(np.unique(people)) >= 2 else None

    @property
    def by_person(self) -> bool:
        """Whether it is known whose queries they are."""
        return self._identities is not None and len(self._identities) == len(self._valid)

    def values(self, label: str, metric: str) -> np.ndarray:
        """(S, Q) of seeds and queries, in per cent."""
        ap, first = (values[:, self._valid] for values in self._values[label])
        return 100.0 * PER_QUERY[metric](ap, first).astype(float)

    def pairs(self, pairs: Sequence[tuple[str, str]], metric: str) -> list[Pair]:
        """Differences of rows, with p-values corrected for this many (Holm, 1979)."""
        found = [self._difference(a, b, metric) for a, b in pairs]
        corrected = holm([difference.p for difference in found])
        return [
            Pair(a, b, metric, difference, p, self.by_person)
            for (a, b), difference, p in zip(pairs, found, corrected, strict=True)
        ]

    def _difference(self, a: str, b: str, metric: str) -> Difference:
        assert self.bootstrap is not None
        for label in (a, b):
            if (label, metric) not in self._drawn:
                values = self.values(label, metric)
                mean = float(values.mean())
                self._drawn[label, metric] = mean, self.bootstrap.means(values)
        (mean_a, means_a), (mean_b, means_b) = self._drawn[a, metric], self._drawn[b, metric]
        return self.bootstrap.difference(mean_a - mean_b, means_a, means_b, LEVEL)


@dataclass(frozen=True)
class Marks:
    """Rows of a metric that are printed bold (no row is significantly better) and underlined."""

    best: frozenset[str]
    second: frozenset[str]


def chosen_on_test(rows: pd.DataFrame) -> pd.Series:
    """Of which rows the checkpoint or the settings were chosen on the test set."""
    return (rows["selection"] == "oracle") | rows["tuned"].str.contains(ORACLE, regex=False)


def marks(comparison: Comparison) -> dict[str, Marks]:
    """Metric → which rows lead. Competing are last stages whose checkpoint and settings were not
    chosen on the test set. Without results by query nothing shows that a lead is one: the metric
    has no marks.
    """
    rows = comparison.rows
    competing = rows[rows["final"] & ~chosen_on_test(rows)]
    scores = {
        metric: dict(zip(competing["method"], competing[metric], strict=True))
        for metric in PER_QUERY
    }
    return leading(Path(comparison.store), _entries(competing.to_dict("records")), scores)


def leading(
    store: Path, entries: Sequence[Entry], scores: Mapping[str, Mapping[str, float]]
) -> dict[str, Marks]:
    """Metric → which entries lead, of those that were tested on the same queries.

    Args:
        scores: metric → label → mean over seeds, in per cent.
    """
    if len(entries) < 2:
        return {}
    if sum(len(entry.runs) for entry in entries) < lead_cache.LEAST:
        return _leading(store, entries, scores)
    with lead_cache.opened(store, entries, scores) as kept:
        if kept.marks is None:
            found = _leading(store, entries, scores)
            kept.marks = {m: (sorted(x.best), sorted(x.second)) for m, x in found.items()}
        return {m: Marks(frozenset(b), frozenset(s)) for m, (b, s) in kept.marks.items()}


def _leading(
    store: Path, entries: Sequence[Entry], scores: Mapping[str, Mapping[str, float]]
) -> dict[str, Marks]:
    queries = Queries(store, entries)
    if len(queries.known) < len(entries) or queries.bootstrap is None:
        return {}
    found = {}
    for metric, means in scores.items():
        order = sorted(means, key=lambda label: -means[label])
        behind = queries.pairs([(order[0], other) for other in order[1:]], metric)
        best = {order[0], *(pair.b for pair in behind if pair.p >= 1 - LEVEL)}
        rest = [label for label in order if label not in best]
        found[metric] = Marks(frozenset(best), frozenset(rest[:1]))
    return found


def _entries(rows: Iterable[Mapping[Any, Any]]) -> list[Entry]:
    return [Entry(str(r["method"]), tuple(r["runs"]), str(r["stage"])) for r in rows]


def compare(comparison: Comparison, names: Sequence[str], metric: str = "mAP") -> list[Pair]:
    """All pairs of the rows that are named, the better one first.

    Args:
        names: labels of rows; none of them for all last stages.

    Raises:
        ConfigError: there is no such row, or its runs kept no results by query.
    """
    if metric not in PER_QUERY:
        raise ConfigError(
            f"{metric} cannot be compared query by query.", did_you_mean(metric, PER_QUERY)
        )
    rows = comparison.rows
    by_label = {str(row["method"]): row for row in rows.to_dict("records")}
    queries = Queries(Path(comparison.store), _entries(by_label.values()))
    wanted = list(names) or rows[rows["final"]]["method"].tolist()
    for name in wanted:
        if name not in by_label:
            raise ConfigError(
                f"There is no row '{name}' in {comparison.title}.",
                did_you_mean(name, by_label),
            )
        if name not in queries.known or queries.bootstrap is None:
            raise ConfigError(
                f"The runs of '{name}' ({', '.join(by_label[name]['runs'])}) lack "
                "per_query.npz, or it is of other queries.",
                "Run them again with overwrite=always.",
            )
    order = sorted(wanted, key=lambda name: -float(by_label[name][metric]))
    pairs = [(a, b) for place, a in enumerate(order) for b in order[place + 1 :]]
    return queries.pairs(pairs, metric)
