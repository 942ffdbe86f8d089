"""Metrics: recomputed from the results of every query."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from harness.core.metrics import METRICS
from harness.experiment.joint_datasets import sections
from harness.experiment.submissions.context import Context, ReadRun
from harness.experiment.submissions.untrusted import quoted
from harness.experiment.submissions.verdict import Found, failed_or, ok
from harness.results.schema import REQUIRED

#: percentage points by which float32 results of queries may differ from a recorded metric
ROUNDING = 1e-3


def check_metrics(run: ReadRun, context: Context) -> Found:
    """Compare every metric of every stage with the mean over its queries."""
    problems: list[str] = []
    for stage, result in run.record["stages"].items():
        needed = {name for key in {*REQUIRED, *result["metrics"]} & METRICS.keys()
                  for name in METRICS[key].arrays}  # fmt: skip
        names = {name: f"{stage}_{name}" for name in sorted(needed)}
        lacking = [name for name in names.values() if name not in run.queries]
        if lacking:
            problems.append(f"per_query.npz lacks {', '.join(map(quoted, lacking))}")
            continue
        arrays = {name: run.queries[own] for name, own in names.items()}
        problems += [f"{quoted(stage)}: {text}" for text in _in_stage(arrays, result["metrics"])]
    queries, gallery = (run.record["dataset"].get(key) for key in ("query", "gallery"))
    metrics = run.record["metrics"]
    if metrics.get("queries") != queries:
        problems.append(f"{quoted(metrics.get('queries'))} queries, the data set has {queries}")
    tracks = sections(run.config["dataset"])[0].get("tracks")
    if not tracks and metrics.get("gallery") != gallery:
        problems.append(f"gallery of {quoted(metrics.get('gallery'))}, not {gallery}")
    return failed_or(problems, ok(f"mAP {metrics['mAP']:.2f}, {queries} queries"))


def _in_stage(arrays: Mapping[str, np.ndarray], recorded: Mapping[str, Any]) -> Iterator[str]:
    first = arrays["first_match_rank"]
    valid = first > 0
    if first.dtype.kind not in "iu" or (first < 0).any() or not valid.any():
        yield "first_match_rank does not hold ranks"
        return
    for name, values in arrays.items():
        if name == "first_match_rank":
            continue
        found = values[valid]
        if not (np.isfinite(found).all() and (found > 0).all() and (found <= 1).all()):
            yield f"{name} does not hold fractions"
            return
    counts = {"queries": len(first), "queries_without_match": int((~valid).sum())}
    for key, count in counts.items():
        if recorded.get(key) != count:
            yield f"{key} {quoted(recorded.get(key))}, but there are {count}"
    if (first > recorded.get("gallery", 0)).any():
        yield "a first match is beyond the end of the gallery"
    per_query = {name: values[valid].astype(np.float64) for name, values in arrays.items()}
    yield from differing(recorded, per_query, ROUNDING, 0)


def differing(
    recorded: Mapping[str, Any], per_query: Mapping[str, np.ndarray], points: float, queries: float
) -> Iterator[str]:
    """Recorded metrics that differ from those of valid queries.

    Args:
        points: percentage points by which they may differ. queries: the number of queries by which
            a Rank-k may differ, if that is more.
    """
    allowed = 100 * queries / max(1, len(per_query["ap"]))
    for key, metric in METRICS.items():
        if key in recorded:
            found = metric.percent(per_query)
            tolerance = max(points, allowed) if key.startswith("rank") else points
            if not abs(found - recorded[key]) <= tolerance:
                yield f"{key} {recorded[key]:.3f}, but the queries give {found:.3f}"
