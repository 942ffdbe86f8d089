"""Metrics of a finished run by another rule, beside its record: `harness eval RUN --save`.

    evaluation-student-rerank-k1_20-k2_6-lambda_0.3.json    what was measured, and how
    evaluation-student-rerank-k1_20-k2_6-lambda_0.3.npz     average precision of every query

The record stays as it is; the same rule again replaces its file.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.files import write_atomically, write_json
from harness.evaluation.protocol import EvaluationProtocol
from harness.evaluation.ranking import RankingResult
from harness.results.schema import SCHEMA
from harness.results.store import Run


def save(
    run: Run,
    stage: str,
    rule: EvaluationProtocol,
    result: RankingResult,
    source: str,
    fingerprint: str,
) -> Path:
    """Write what a rule gives.

    Args:
        source: `features` or `network`. fingerprint: of the images.
    """
    own = fingerprint == run.record["dataset"]["fingerprint"]
    data = "" if own else f"-data_{fingerprint[:8]}"  # it is another set's result
    path = run.folder / f"evaluation-{stage}-{rule.name}{data}.json"
    arrays: dict[str, Any] = {
        f"{stage}_ap": result.ap.astype(np.float32),
        f"{stage}_first_match_rank": result.first_match_rank.astype(np.int32),
    }
    write_atomically(path.with_suffix(".npz"), lambda file: np.savez_compressed(file, **arrays))
    write_json(
        path,
        {
            "schema": SCHEMA,
            "run": run.name,
            "stage": stage,
            "rule": rule.as_dict(),
            "metrics": rule.metrics(result),
            "source": source,
            "fingerprint": fingerprint,
            "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        },
    )
    return path
