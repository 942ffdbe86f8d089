"""Whether one method leads another by more than chance: a paired bootstrap over queries and seeds.

Two methods are tested on the same queries, so their average precisions are compared query by query.
Queries of one person are alike and are drawn together. Where both methods were run with several
seeds, seeds are drawn too: a lead that hangs on a lucky seed is no lead.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special


@dataclass(frozen=True)
class Difference:
    """Mean of A minus mean of B (mAP, if the values are average precisions), in their unit.

    value: the difference. low, high: its interval. p: two-sided, of no difference.
    people: how many were drawn (queries, where identities are unknown).
    seeds: of A and of B, which were drawn if both are 2 or more.
    """

    value: float
    low: float
    high: float
    p: float
    people: int
    seeds: tuple[int, int]


class Bootstrap:
    """Draws of people, shared by all comparisons on the same queries.

    Args:
        identities: (Q,) whose query it is; number them 0 … Q−1 where that is not known.

    Raises:
        ValueError: fewer than two people.
    """

    def __init__(self, identities: np.ndarray, resamples: int = 2000, seed: int = 0) -> None:
        people, self.person = np.unique(identities, return_inverse=True)
        if (count := len(people)) < 2:
            raise ValueError("fewer than two people: nothing to draw from")
        self.people = count
        self._rng = np.random.default_rng(seed)
        # how often each person is drawn (resamples, people)
        self._times = self._rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        self._queries = self._times @ np.bincount(self.person)
        self._weights: dict[tuple[int, int], np.ndarray] = {}

    def means(self, values: np.ndarray) -> np.ndarray:
        """Values (S, Q) of seeds and queries to their means (resamples, S) in each draw."""
        sums = np.stack([np.bincount(self.person, row, self.people) for row in values])
        return self._times @ sums.T / self._queries[:, None]

    def compare(self, a: np.ndarray, b: np.ndarray, level: float = 0.95) -> Difference:
        """The difference of two methods' means, with an interval and a p-value.

        The standard error is the bootstrap's (Efron and Tibshirani, *An Introduction to the
        Bootstrap*, 1993, ch. 6): people with replacement, the same for A and B, and, with several
        seeds of both, each method's seeds. Drawn seeds spread too little by √((n−1)/n), which is
        made good. Interval and p are Student's, with as many degrees of freedom as people − 1 or,
        with seeds drawn, as seeds − 2 if that is less: three seeds cannot prove much.

        Args:
            a, b: (S, Q) average precision, or another value, of each seed and query.

        Raises:
            ValueError: they are not of these queries.
        """
        for values in (a, b):
            if values.ndim != 2 or not len(values) or values.shape[1] != len(self.person):
                raise ValueError(f"values {values.shape} are not of {len(self.person)} queries")
        return self.difference(float(a.mean() - b.mean()), self.means(a), self.means(b), level)

    def difference(
        self, value: float, a: np.ndarray, b: np.ndarray, level: float = 0.95
    ) -> Difference:
        """As `compare`, from the difference and what `means` gave of both: (resamples, S) each."""
        seeds, freedom = (a.shape[1], b.shape[1]), self.people - 1
        if min(seeds) >= 2:
            freedom = min(freedom, sum(seeds) - 2)
            drawn = [
                (means * self._seed_weights(role, means.shape[1])).sum(1)
                for role, means in enumerate((a, b))
            ]
        else:
            drawn = [a.mean(1), b.mean(1)]
        error = float((drawn[0] - drawn[1]).std(ddof=1))
        reach, p = 0.0, float(value == 0)
        if error > 1e-12:  # else the same in every draw
            reach = float(special.stdtrit(freedom, (1 + level) / 2)) * error
            p = 2 * float(special.stdtr(freedom, -abs(value) / error))
        return Difference(value, value - reach, value + reach, p, self.people, seeds)

    def _seed_weights(self, role: int, seeds: int) -> np.ndarray:
        """Weights (resamples, S) of drawn seeds, each row's sum 1; A's and B's are drawn apart."""
        if (role, seeds) not in self._weights:
            share = np.full(seeds, 1 / seeds)
            times = self._rng.multinomial(seeds, share, size=len(self._times))
            spread = np.sqrt(seeds / (seeds - 1))
            self._weights[role, seeds] = 1 / seeds + (times / seeds - 1 / seeds) * spread
        return self._weights[role, seeds]


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm, *A simple sequentially rejective multiple test
    procedure*, 1979): with these, the chance of one false lead or more is below the level.
    """
    order = sorted(range(len(p)), key=lambda place: p[place])
    steps = ((len(p) - rank) * p[place] for rank, place in enumerate(order))
    highest = itertools.accumulate((min(1.0, step) for step in steps), max)
    return [value for _, value in sorted(zip(order, highest, strict=True))]
