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
from scipy import stats

_BLOCK = 2**24  # numbers drawn at once


@dataclass(frozen=True)
class Difference:
    """mAP of A minus mAP of B, in the unit of the average precisions.

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


def compare(
    a: np.ndarray,
    b: np.ndarray,
    identities: np.ndarray | None = None,
    *,
    level: float = 0.95,
    resamples: int = 5000,
    seed: int = 0,
) -> Difference:
    """The difference of two mAPs, with an interval and a p-value.

    The standard error is the bootstrap's (Efron and Tibshirani, *An Introduction to the Bootstrap*,
    1993, ch. 6): people with replacement, the same for A and B, and, with several seeds of both,
    each method's seeds. Drawn seeds spread too little by √((n−1)/n), which is made good. Interval
    and p are Student's, with as many degrees of freedom as people − 1 or, with seeds drawn, as
    seeds − 2 if that is less: three seeds cannot prove much.

    Args:
        a, b: (S, Q) average precision of each seed and query; both of the same queries.
        identities: (Q,) whose query it is; each query on its own if None.

    Raises:
        ValueError: shapes that do not fit, or fewer than two people.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise ValueError(f"average precisions {a.shape} and {b.shape} are not of the same queries")
    queries = a.shape[1]
    groups = np.arange(queries)
    if identities is not None:
        if identities.shape != (queries,):
            raise ValueError(f"{queries} queries but identities {identities.shape}")
        groups = np.unique(identities, return_inverse=True)[1]
    people = int(groups.max()) + 1 if queries else 0
    if people < 2:
        raise ValueError("fewer than two people: nothing to draw from")
    rng = np.random.default_rng(seed)
    sizes = np.bincount(groups).astype(float)
    sums = [np.stack([np.bincount(groups, row, people) for row in ap]) for ap in (a, b)]
    drawn_seeds = min(len(a), len(b)) >= 2
    draws = []
    for count in _blocks(resamples, people):
        # how often each person is drawn (count, people)
        times = rng.multinomial(people, np.full(people, 1 / people), size=count).astype(float)
        total = times @ sizes
        means = [(times @ s.T) / total[:, None] for s in sums]  # (count, S)
        if drawn_seeds:
            means = [m * _seed_weights(m.shape, rng) for m in means]
            draws.append(means[0].sum(1) - means[1].sum(1))
        else:
            draws.append(means[0].mean(1) - means[1].mean(1))
    error = float(np.concatenate(draws).std(ddof=1))
    value = float(a.mean() - b.mean())
    freedom = people - 1
    if drawn_seeds:
        freedom = min(freedom, len(a) + len(b) - 2)
    if error == 0:  # the same for every draw
        return Difference(value, value, value, float(value == 0), people, (len(a), len(b)))
    reach = float(stats.t.ppf((1 + level) / 2, freedom)) * error
    p = 2 * float(stats.t.sf(abs(value) / error, freedom))
    return Difference(value, value - reach, value + reach, p, people, (len(a), len(b)))


def _blocks(total: int, width: int) -> list[int]:
    size = max(1, _BLOCK // width)
    return [min(size, total - start) for start in range(0, total, size)]


def _seed_weights(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Weights (count, S) of drawn seeds, each row's sum 1."""
    count, seeds = shape
    times = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
    return 1 / seeds + (times / seeds - 1 / seeds) * np.sqrt(seeds / (seeds - 1))


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm, *A simple sequentially rejective multiple test
    procedure*, 1979): with these, the chance of one false lead or more is below the level.
    """
    order = sorted(range(len(p)), key=lambda place: p[place])
    steps = ((len(p) - rank) * p[place] for rank, place in enumerate(order))
    highest = itertools.accumulate((min(1.0, step) for step in steps), max)
    return [value for _, value in sorted(zip(order, highest, strict=True))]
