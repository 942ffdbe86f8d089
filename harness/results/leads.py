"""Which rows of a table lead: the best, and all that are not significantly behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import ConfigError, did_you_mean
from harness.results.comparisons import Comparison
from harness.results.significance import Bootstrap, Difference, holm
from harness.tuned import ORACLE

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


class Queries:
    """What every query of a table's test set found, by row; read once."""

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.rows: Mapping[str, Mapping[Any, Any]] = {
            str(row["method"]): row for row in comparison.rows.to_dict("records")
        }
        self._values: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._identities: np.ndarray | None = None

    @cached_property
    def known(self) -> list[str]:
        """Rows whose runs all kept results by query, for the same queries."""
        found = [label for label in self.rows if self._read(label)]
        counts = {self._values[label][0].shape[1] for label in found}
        return found if len(counts) <= 1 else []

    def _read(self, label: str) -> bool:
        row = self.rows[label]
        ap, first = [], []
        for run in row["runs"]:
            path = Path(self.comparison.store) / str(run) / "per_query.npz"
            try:
                with np.load(path) as arrays:
                    ap.append(arrays[f"{row['stage']}_ap"])
                    first.append(arrays[f"{row['stage']}_first_match_rank"])
                    if "query_identity" in arrays:
                        self._identities = arrays["query_identity"]
            except (OSError, KeyError, ValueError):
                return False
        if len({len(values) for values in ap}) != 1:
            return False
        self._values[label] = np.stack(ap).astype(float), np.stack(first)
        return True

    @cached_property
    def _valid(self) -> np.ndarray:
        """(Q,) the queries that have a correct image to find: the same for all."""
        return np.all([(self._values[label][1] > 0).all(0) for label in self.known], axis=0)

    @cached_property
    def bootstrap(self) -> Bootstrap:
        """Draws that all comparisons share."""
        people = self._identities
        if people is None or len(people) != len(self._valid):
            people = np.arange(len(self._valid))
        return Bootstrap(people[self._valid])

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
        found = [
            self.bootstrap.compare(self.values(a, metric), self.values(b, metric), LEVEL)
            for a, b in pairs
        ]
        corrected = holm([difference.p for difference in found])
        return [
            Pair(a, b, metric, difference, p, self.by_person)
            for (a, b), difference, p in zip(pairs, found, corrected, strict=True)
        ]


@dataclass(frozen=True)
class Marks:
    """Rows of a metric that are printed bold (no row is significantly better) and underlined."""

    best: frozenset[str]
    second: frozenset[str]


def marks(comparison: Comparison) -> dict[str, Marks]:
    """Metric → which rows lead. Competing are last stages whose checkpoint and settings were not
    chosen on the test set. Without results by query nothing shows that a lead is one: the metric has no marks.
    """
    rows = comparison.rows
    on_test = (rows["selection"] == "oracle") | rows["tuned"].str.contains(ORACLE, regex=False)
    competing = rows[rows["final"] & ~on_test]
    queries = Queries(comparison)
    labels = [label for label in competing["method"] if label in queries.known]
    if len(labels) < 2 or len(labels) < len(competing):
        return {}
    found = {}
    for metric in PER_QUERY:
        order = competing.sort_values(metric, ascending=False, kind="stable")["method"].tolist()
        behind = queries.pairs([(order[0], other) for other in order[1:]], metric)
        best = {order[0], *(pair.b for pair in behind if pair.p >= 1 - LEVEL)}
        rest = [label for label in order if label not in best]
        found[metric] = Marks(frozenset(best), frozenset(rest[:1]))
    return found


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
    queries = Queries(comparison)
    rows = comparison.rows
    wanted = list(names) or rows[rows["final"]]["method"].tolist()
    for name in wanted:
        if name not in queries.rows:
            raise ConfigError(
                f"There is no row '{name}' in {comparison.title}.",
                did_you_mean(name, queries.rows),
            )
        if name not in queries.known:
            raise ConfigError(
                f"The runs of '{name}' ({', '.join(queries.rows[name]['runs'])}) lack "
                "per_query.npz, or it is of other queries.",
                "Run them again with force=true.",
            )
    order = sorted(wanted, key=lambda name: -float(queries.rows[name][metric]))
    pairs = [(a, b) for place, a in enumerate(order) for b in order[place + 1 :]]
    return queries.pairs(pairs, metric)
