"""Significance marks: the best row of a metric, and all that are not significantly behind it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from harness.core.arrays import read_queries
from harness.core.errors import ConfigError, did_you_mean
from harness.core.metrics import METRICS, in_tables
from harness.core.tuned import ORACLE
from harness.results.comparisons import Comparison
from harness.results.significance import Bootstrap, Difference, holm

#: the level of intervals, and of what is called significant
LEVEL = 0.95


@dataclass(frozen=True)
class Pair:
    """Two rows of a table and their difference in a metric, in percentage points.

    p: corrected for all pairs that were compared. by_identity: whether queries of one identity were
    drawn together.
    """

    a: str
    b: str
    metric: str
    difference: Difference
    p: float
    by_identity: bool


#: metric → label → 'best' (bold: no row is significantly better) or 'second' (underlined)
Marks = dict[str, dict[str, str]]


class Queries:
    """Per-query results of the rows that kept them for the same queries.

    Args:
        rows: with the columns method (the label), runs and stage.
    """

    def __init__(self, store: Path, rows: pd.DataFrame) -> None:
        self._identities: np.ndarray | None = None
        #: label → array of `Metric.arrays` → its values (S, Q), of seeds and queries
        self.arrays: dict[str, dict[str, np.ndarray]] = {}
        for label, runs, stage in rows[["method", "runs", "stage"]].itertuples(index=False):
            paths = [store / run / "per_query.npz" for run in runs]
            if (arrays := self._read(paths, stage)) is not None:
                self.arrays[label] = arrays
        if len({len(arrays["first_match_rank"][0]) for arrays in self.arrays.values()}) > 1:
            self.arrays = {}
        self._means: dict[tuple[str, str], tuple[float, np.ndarray]] = {}

    def _read(self, paths: Sequence[Path], stage: str) -> dict[str, np.ndarray] | None:
        """The arrays that all runs of a row kept; None without ranks, or of different queries."""
        wanted = {name for metric in METRICS.values() for name in metric.arrays}
        found: list[dict[str, np.ndarray]] = []
        try:
            for path in paths:
                arrays = read_queries(path)
                stored = {key.removeprefix(f"{stage}_"): key for key in arrays}
                found.append({name: arrays[stored[name]] for name in wanted & stored.keys()})
                if self._identities is None and "query_identity" in arrays:
                    self._identities = arrays["query_identity"]
        except (OSError, ValueError):
            return None
        names = set.intersection(*(set(arrays) for arrays in found))
        lengths = {len(array) for arrays in found for array in arrays.values()}
        if "first_match_rank" not in names or len(lengths) != 1:
            return None
        return {name: np.stack([arrays[name] for arrays in found]) for name in names}

    @cached_property
    def _valid(self) -> np.ndarray:
        """(Q,) the queries that have a correct match: the same for all."""
        ranks = [arrays["first_match_rank"] for arrays in self.arrays.values()]
        return np.all([(rank > 0).all(0) for rank in ranks], axis=0)

    @property
    def by_identity(self) -> bool:
        return self._identities is not None and len(self._identities) == len(self._valid)

    @cached_property
    def bootstrap(self) -> Bootstrap | None:
        """Draws that all comparisons share; None for fewer than two identities."""
        if not self.arrays:
            return None
        known = self._identities if self.by_identity else None
        drawn = (np.arange(len(self._valid)) if known is None else known)[self._valid]
        return Bootstrap(drawn) if len(np.unique(drawn)) >= 2 else None

    def has(self, label: str, metric: str) -> bool:
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
                arrays = {name: array[:, self._valid] for name, array in self.arrays[label].items()}
                values = 100.0 * METRICS[metric].values(arrays).astype(float)
                self._means[label, metric] = float(values.mean()), self.bootstrap.means(values)
        (mean_a, means_a), (mean_b, means_b) = self._means[a, metric], self._means[b, metric]
        return self.bootstrap.difference(mean_a - mean_b, means_a, means_b, LEVEL)


def chosen_on_test(rows: pd.DataFrame) -> pd.Series:
    """Of which rows the checkpoint or the settings were chosen on the test set."""
    return (rows["selection"] == "oracle") | rows["tuned"].str.contains(ORACLE, regex=False)


def significance_marks(comparison: Comparison) -> Marks:
    """Competing are last stages whose checkpoint and settings were not chosen on the test set. A
    metric without per-query results of every competing row has no marks.
    """
    rows = comparison.rows
    return mark_rows(comparison.store, rows[rows["final"] & ~chosen_on_test(rows)], in_tables())


def mark_rows(store: Path, rows: pd.DataFrame, metrics: Iterable[str]) -> Marks:
    """Marks of rows (as of `Queries`, with the metrics' means over seeds) of the same queries."""
    found: Marks = {}
    if len(rows) < 2:
        return found
    queries = Queries(store, rows)
    for metric in metrics:
        tested = all(queries.has(label, metric) for label in rows["method"])
        if queries.bootstrap is None or not tested or rows[metric].isna().any():
            continue
        first, *others = _best_first(rows, metric)
        behind = queries.pairs([(first, other) for other in others], metric)
        best = [first, *(pair.b for pair in behind if pair.p >= 1 - LEVEL)]
        rest = [label for label in others if label not in best]
        found[metric] = dict.fromkeys(best, "best") | dict.fromkeys(rest[:1], "second")
    return found


def _best_first(rows: pd.DataFrame, metric: str) -> list[str]:
    """Labels; equal rows by their labels, so that marks do not depend on the order of a table."""
    ascending = [not METRICS[metric].higher_is_better, True]
    return rows.sort_values([metric, "method"], ascending=ascending)["method"].tolist()


def compare(comparison: Comparison, names: Sequence[str], metric: str = "mAP") -> list[Pair]:
    """All pairs of the rows that are named, the better one first.

    Args:
        names: labels of rows; if empty, all last stages.

    Raises:
        ConfigError: there is no such row, or its runs kept no per-query results.
    """
    if metric not in METRICS:
        hint = did_you_mean(metric, METRICS)
        raise ConfigError(f"{metric} cannot be compared query by query.", hint)
    rows = comparison.rows
    for name in names:
        if name not in set(rows["method"]):
            hint = did_you_mean(name, rows["method"])
            raise ConfigError(f"There is no row '{name}' in {comparison.title}.", hint)
    rows = rows[rows["method"].isin(names) if names else rows["final"]]
    queries = Queries(comparison.store, rows)
    for name, runs in zip(rows["method"], rows["runs"], strict=True):
        if not queries.has(name, metric):
            raise ConfigError(
                f"The runs of '{name}' ({', '.join(runs)}) lack per-query results of {metric} "
                "(per_query.npz), or have them for other queries.",
                "Add them: harness run … overwrite=backfill; or run again: overwrite=always.",
            )
    if queries.bootstrap is None:
        raise ConfigError(
            f"The queries of {comparison.title} have fewer than two identities.",
            "A bootstrap over identities needs more.",
        )
    return queries.pairs(list(combinations(_best_first(rows, metric), 2)), metric)
