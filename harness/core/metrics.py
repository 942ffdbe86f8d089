"""The metrics of a test, each declared once.

Records, tables, significance tests, searches and the report take keys, names, directions and
decimals from `METRICS`. Adding an entry adds the metric to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

#: what a ranking gives for each query: `ap`, `inp` and `first_match_rank`, arrays (…, Q)
PerQuery = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A metric that is a mean over the queries that have a correct match.

    key: in records and on the command line. label: in tables and charts.
    arrays: the entries of `PerQuery` that it is computed from.
    per_query: their values → (…, Q), fractions in 0 … 1.
    decimals: of the percentage, in tables.
    in_tables: whether the default leaderboard has a column for it.
    higher_is_better: the direction, for bold rows and searches.
    """

    key: str
    label: str
    arrays: tuple[str, ...]
    per_query: Callable[..., np.ndarray]
    decimals: int = 1
    in_tables: bool = True
    higher_is_better: bool = True

    def values(self, arrays: PerQuery) -> np.ndarray:
        """Fractions (…, Q) of every query."""
        return self.per_query(*(arrays[name] for name in self.arrays))

    def percent(self, arrays: PerQuery) -> float:
        """The metric in percent, of arrays (Q,) of valid queries."""
        return 100 * float(self.values(arrays).mean())


def _rank(k: int, in_tables: bool = True) -> Metric:
    arrays = ("first_match_rank",)
    return Metric(f"rank{k}", f"Rank-{k}", arrays, lambda first: first <= k, in_tables=in_tables)


METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        Metric("mAP", "mAP", ("ap",), lambda ap: ap),
        _rank(1),
        _rank(5),
        _rank(10),
        _rank(20, in_tables=False),
        Metric("mINP", "mINP", ("inp",), lambda inp: inp),
    )
}


def in_tables() -> dict[str, Metric]:
    """The metrics that the default leaderboard shows."""
    return {key: metric for key, metric in METRICS.items() if metric.in_tables}
