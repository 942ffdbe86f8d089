"""Repeats: seeds differ, and so do their results; known results are not submitted as new ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from harness.core.arrays import read_queries
from harness.experiment.submissions.context import Context, ReadRun
from harness.experiment.submissions.layout import QUERIES
from harness.experiment.submissions.verdict import Found, failed_or, ok, unknown
from harness.results.store import Store

#: average precisions that differ by less are alike; runs of two seeds differ in most queries
CLOSE, ALIKE = 1e-3, 0.99
_SAME = "nearly every query has the result that it has"


def check_repeats(run: ReadRun, context: Context) -> Found:
    """Compare a run with the others of its submission, and with known results.

    Untrained networks are tested alike by every seed, so equal results are no fault of theirs.
    """
    problems = list(_in_submission(run, context.runs))
    known = context.reference.leaderboard
    if known is None or not known.is_dir():
        return failed_or(problems, unknown("no known results to compare with"))
    problems += _known(run, Store(known))
    return failed_or(problems, ok())


def _in_submission(run: ReadRun, runs: list[ReadRun]) -> Iterator[str]:
    for other in runs:
        if other is run:
            continue
        if _experiment(run.record) == _experiment(other.record):
            yield f"it is the same experiment as {other.name}, seed included"
        elif run.trained and other.trained and _same_queries(run.queries, other.queries):
            yield f"{_SAME} in {other.name}"


def _known(run: ReadRun, store: Store) -> Iterator[str]:
    for known in store.runs():
        if not known.finished or known.folder.resolve() == run.folder.resolve():
            continue
        record = known.record
        if record["dataset"].get("fingerprint") != run.record["dataset"].get("fingerprint"):
            continue
        same = _experiment(record) == _experiment(run.record)
        if not (same or run.trained):
            continue
        try:
            queries = read_queries(known.folder / QUERIES)
        except (OSError, ValueError):
            continue
        if _same_queries(run.queries, queries):
            yield f"{_SAME} in {known.name}, which is known"


def _experiment(record: Any) -> tuple[Any, ...]:
    """What tables count once."""
    named, source = record["experiment"], record.get("source") or {}
    return (
        named["method"], named["dataset"], record["dataset"].get("fingerprint"),
        source.get("fingerprint"), record["protocol"]["hash"], record["settings"], named["seed"],
    )  # fmt: skip


def _same_queries(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether a stage of each has nearly the same average precisions, query by query."""
    lists = [[v for k, v in queries.items() if k.endswith("_ap")] for queries in (one, other)]
    return any(_alike(a, b) for a in lists[0] for b in lists[1])


def _alike(one: np.ndarray, other: np.ndarray) -> bool:
    if one.shape != other.shape:
        return False
    near = np.isclose(one, other, rtol=0, atol=CLOSE, equal_nan=True)
    return bool(near.mean() >= ALIKE)
