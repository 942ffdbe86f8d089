"""Whether one method is better than another by more than chance: a paired bootstrap.

Two methods are tested on the same queries, so their average precisions are compared query by query.
Queries of one identity are alike and are drawn together. Where both methods were run with more than
one seed, seeds are drawn too: a lucky seed is not a significant difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Difference:
    """Mean of A minus mean of B (mAP, if the values are average precisions), in their unit.

    value: the difference. low, high: its interval. p: two-sided, under no difference.
    identities: how many were drawn (queries, where identities are unknown).
    seeds: the number of seeds of A and of B, which were drawn if both are 2 or more.
    """

    value: float
    low: float
    high: float
    p: float
    identities: int
    seeds: tuple[int, int]


class Bootstrap:
    """Draws of identities, shared by all comparisons on the same queries.

    Args:
        identities: (Q,) of the queries; 0 … Q−1 if they are not known.

    Raises:
        ValueError: fewer than two identities.
    """

    def __init__(self, identities: np.ndarray, resamples: int = 2000, seed: int = 0) -> None:
        unique, self._of_query = np.unique(identities, return_inverse=True)
        if (count := len(unique)) < 2:
            raise ValueError("fewer than two identities: nothing to draw from")
        self.identities = count
        self._rng = np.random.default_rng(seed)
        # how often each identity is drawn (resamples, identities)
        times = self._rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        self._times = times.astype(float)  # for BLAS
        self._queries = self._times @ np.bincount(self._of_query)
        self._weights: dict[tuple[int, int], np.ndarray] = {}

    def means(self, values: np.ndarray) -> np.ndarray:
        """Values (S, Q) of seeds and queries to their means (resamples, S) in each draw."""
        sums = np.stack([np.bincount(self._of_query, row, self.identities) for row in values])
        return self._times @ sums.T / self._queries[:, None]

    def difference(
        self, value: float, a: np.ndarray, b: np.ndarray, level: float = 0.95
    ) -> Difference:
        """The difference of two methods, with an interval and a p-value.

        The standard error is the bootstrap's (Efron and Tibshirani, *An Introduction to the
        Bootstrap*, 1993, ch. 6): identities with replacement, the same for A and B, and, if both
        have more than one seed, each method's seeds. Drawn seeds spread too little by √((n−1)/n),
        which is corrected. Interval and p are Student's, with identities − 1 degrees of freedom or,
        with seeds drawn, those of the seeds (see `_seed_freedom`) if that is less.

        Args:
            value: of all queries, A minus B. a, b: (resamples, S) the `means` of each.
        """
        from scipy import special  # slow to import

        seeds, freedom = (a.shape[1], b.shape[1]), float(self.identities - 1)
        if min(seeds) >= 2:
            freedom = min(freedom, _seed_freedom(a.mean(0), b.mean(0)))
            a, b = a * self._seed_weights(0, seeds[0]), b * self._seed_weights(1, seeds[1])
            error = float((a.sum(1) - b.sum(1)).std(ddof=1))
        else:
            error = float((a.mean(1) - b.mean(1)).std(ddof=1))
        reach, p = 0.0, float(value == 0)
        if error > 1e-12:  # otherwise all draws agree
            reach = float(special.stdtrit(freedom, (1 + level) / 2)) * error
            p = 2 * float(special.stdtr(freedom, -abs(value) / error))
        return Difference(value, value - reach, value + reach, p, self.identities, seeds)

    def _seed_weights(self, role: int, seeds: int) -> np.ndarray:
        """Weights (resamples, S) of drawn seeds; rows sum to 1, A's and B's are independent."""
        if (role, seeds) not in self._weights:
            share = np.full(seeds, 1 / seeds)
            times = self._rng.multinomial(seeds, share, size=len(self._times))
            spread = np.sqrt(seeds / (seeds - 1))
            self._weights[role, seeds] = 1 / seeds + (times / seeds - 1 / seeds) * spread
        return self._weights[role, seeds]


def _seed_freedom(a: np.ndarray, b: np.ndarray) -> float:
    """Degrees of freedom that the seeds' results (S,) of two methods give their difference.

    S_A + S_B − 2 for equal numbers of seeds. For unequal numbers, the spread of the method with
    fewer seeds counts most, and those of Welch (*The generalization of 'Student's' problem when
    several different population variances are involved*, 1947) are between min(S_A, S_B) − 1 and
    S_A + S_B − 2.
    """
    if len(a) == len(b):
        return len(a) + len(b) - 2
    shares = [values.var(ddof=1) / len(values) for values in (a, b)]
    if max(shares) < 1e-24:  # the seeds of each method agree
        return min(len(a), len(b)) - 1
    parts = zip(shares, (a, b), strict=True)
    return float(sum(shares) ** 2 / sum(share**2 / (len(v) - 1) for share, v in parts))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for multiple comparisons (Holm, *A simple sequentially rejective multiple
    test procedure*, 1979): the chance of any false positive is below the level.
    """
    order = sorted(range(len(p)), key=lambda place: p[place])
    steps = ((len(p) - rank) * p[place] for rank, place in enumerate(order))
    highest = itertools.accumulate((min(1.0, step) for step in steps), max)
    return [value for _, value in sorted(zip(order, highest, strict=True))]
