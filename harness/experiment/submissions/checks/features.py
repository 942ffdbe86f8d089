"""Features: all metrics computed again from the test features, by the harness's own ranking."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from harness.core.errors import HarnessError
from harness.data.types import DatasetFacts, ReIDData
from harness.evaluation import kept_features
from harness.evaluation.evaluator import without_junk
from harness.evaluation.ground_truth import GroundTruth
from harness.evaluation.kept_features import KeptFeatures
from harness.evaluation.protocol import EvaluationProtocol, score
from harness.experiment.submissions.checks.images import loaded, published_facts
from harness.experiment.submissions.checks.metrics import differing
from harness.experiment.submissions.context import Context, ReadRun
from harness.experiment.submissions.untrusted import quoted
from harness.experiment.submissions.verdict import Found, failed, ok, unknown

#: percentage points, and queries of a Rank-k, by which features in float16 may change a metric
POINTS, QUERIES = 0.05, 2
#: points by which an exchange of neighbors may change one query's result: more than `POINTS` in the
#: mean of fewer than 200 queries. About 3 were seen in the tests, with fewer than 20 queries
EXCHANGE = 10.0
#: pairs of a query and a gallery image that are ranked; MSMT17 has 10⁹
MOST_PAIRS = 1 << 32
#: mean difference of a query's average precision, in percentage points
QUERY_POINTS = 0.5


def check_features(run: ReadRun, context: Context) -> Found:
    """Rank the features of the reported stage, and compare their ground truth with the data."""
    stage = list(run.record["stages"])[-1]
    others = [
        p.name for p in run.folder.glob("*_features.npz") if p.name != f"{stage}_features.npz"
    ]
    if others:
        return failed(f"{', '.join(others)}: the reported stage is {quoted(stage)}")
    try:
        kept = kept_features.load(run.folder, stage)
    except HarnessError:
        return failed(f"{quoted(stage)}_features.npz does not hold what the harness keeps")
    if kept is None:
        withheld = run.entry.withheld.get(f"{stage}_features.npz")
        why = f" (kept, SHA-256 {withheld.sha256[:16]}…)" if withheld else ""
        return unknown(f"not submitted{why}: the ranking cannot be repeated")
    if len(kept.query) * len(kept.gallery) > MOST_PAIRS:
        return failed(f"more than {MOST_PAIRS:,} pairs of a query and a gallery image")
    problems, truth = list(_origin(run, kept)), kept.ground_truth
    data = loaded(run, context)
    if data is not None:
        problems += _compared(truth, data)
    elif facts := published_facts(run, context):
        problems += _counted(truth, facts)
    if problems:
        return failed(problems)
    try:
        rule = EvaluationProtocol(rerank=bool(run.config["evaluation"]["rerank"]))
        result = score(kept.query, kept.gallery, truth, rule)
    except HarnessError as error:
        return failed(f"they cannot be ranked: {quoted(error.cause, 200)}")
    points = max(POINTS, EXCHANGE / max(1, len(result.ap)))
    problems += differing(run.record["metrics"], result.per_query(), points, QUERIES)
    own = run.queries.get(f"{stage}_ap", np.empty(0))
    if own.shape != result.ap.shape:
        problems.append(f"{len(result.ap)} queries, per_query.npz has {len(own)}")
    else:
        gap = 100 * float(np.nanmean(np.abs(np.nan_to_num(own) - np.nan_to_num(result.ap))))
        if not gap <= QUERY_POINTS:
            problems.append(f"average precisions differ from per_query.npz's by {gap:.2f} points")
    if problems:
        return failed(problems)
    what = f"mAP {100 * result.mAP:.2f} from {kept.query.shape[1]} dimensions"
    if data is None:
        return unknown(f"{what}, but the images' identities are not here to compare with (--data)")
    return ok(f"{what}; identities and cameras are those of the data set")


def _origin(run: ReadRun, kept: KeptFeatures) -> Iterator[str]:
    recorded = str(run.record["dataset"].get("fingerprint"))
    if kept.fingerprint != recorded:
        yield f"they are of other images ({quoted(kept.fingerprint[:8])}, not {recorded[:8]})"
    sizes = {"query": len(kept.query), "gallery": len(kept.gallery)}
    for key, count in sizes.items():
        if run.record["dataset"].get(key) != count:
            stated = quoted(run.record["dataset"].get(key))
            yield f"{count} {key} images, the record has {stated}"
    identities = run.queries.get("query_identity")
    if identities is not None and not np.array_equal(identities, kept.ground_truth.query_ids):
        yield "their queries have other identities than those of per_query.npz"


def _compared(truth: GroundTruth, data: ReIDData) -> Iterator[str]:
    """Ground truth that is not the data set's."""
    own = GroundTruth.of(data.query, without_junk(data.gallery))
    for key in ("query_ids", "gallery_ids", "query_cams", "gallery_cams", "tracks"):
        given, expected = getattr(truth, key), getattr(own, key)
        if (given is None) != (expected is None) or (
            given is not None and not np.array_equal(given, expected)
        ):
            yield f"{key} are not those of the data set"


def _counted(truth: GroundTruth, facts: DatasetFacts) -> Iterator[str]:
    """Ground truth that cannot be the published one, by its counts."""
    query, gallery = list(truth.query_ids), list(truth.gallery_ids)
    counts: dict[str, int] = {"query_identities": len(set(map(int, query)))}
    if facts.distractors:
        counts["distractors"] = sum(int(i) == 0 for i in gallery)
    if truth.query_cams is not None and truth.gallery_cams is not None:
        images = Counter(map(int, gallery))
        seen = Counter(_pairs(gallery, truth.gallery_cams))
        counts["matches"] = sum(
            images[i] - seen[i, camera] for i, camera in _pairs(query, truth.query_cams)
        )
    elif facts.cameras:
        yield "they have no cameras"
    for key, count in counts.items():
        expected = getattr(facts, key)
        if expected is not None and count != expected:
            yield f"{key}: {count:,}, not {expected:,}"


def _pairs(identities: Sequence[Any], cameras: Any) -> Iterator[tuple[int, int]]:
    return ((int(i), int(c)) for i, c in zip(identities, cameras, strict=True))
