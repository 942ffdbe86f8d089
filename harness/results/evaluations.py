"""Metrics of a finished run by another evaluation rule: `harness eval RUN --save`.

    evaluation-student-rerank-k1_20-k2_6-lambda_0.3.json    the rule and its metrics
    evaluation-student-rerank-k1_20-k2_6-lambda_0.3.npz     average precision of every query

The record stays unchanged. Evaluating by the same rule again replaces its file.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.files import write_atomically, write_json
from harness.evaluation.protocol import EvaluationProtocol
from harness.evaluation.ranking import RankingResult
from harness.results.store import SCHEMA, Run


def save(
    run: Run, stage: str, rule: EvaluationProtocol, result: RankingResult, source: str,
    fingerprint: str,
) -> Path:  # fmt: skip
    """Write the metrics by a rule beside the record.

    Args:
        source: `features` or `network`. fingerprint: of the images.
    """
    own = fingerprint == run.record["dataset"]["fingerprint"]
    data = "" if own else f"-data_{fingerprint[:8]}"  # of another data set
    path = run.folder / f"evaluation-{stage}-{rule.name}{data}.json"
    arrays: dict[str, Any] = {
        f"{stage}_ap": result.ap.astype(np.float32),
        f"{stage}_inp": result.inp.astype(np.float32),
        f"{stage}_first_match_rank": result.first_match_rank.astype(np.int32),
    }
    write_atomically(path.with_suffix(".npz"), lambda file: np.savez_compressed(file, **arrays))
    content = {
        "schema": SCHEMA, "run": run.name, "stage": stage, "rule": rule.as_dict(),
        "metrics": rule.metrics(result), "source": source, "fingerprint": fingerprint,
        "finished": time.strftime("%Y-%m-%d", time.gmtime()),
    }  # fmt: skip
    write_json(path, content)
    return path
