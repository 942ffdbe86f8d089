"""The Python interface: the functions of `harness` itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import harness
from harness.core.errors import ConfigError
from tests.tiny import tiny


def test_run_evaluate_and_load(tmp_path: Path) -> None:
    run = harness.run(*tiny(tmp_path, "method=direct_transfer"))
    assert run.finished
    again = harness.evaluate(run.folder, data_root=tmp_path / "data", device="cpu", images=True)
    assert again["mAP"] == pytest.approx(run.record["metrics"]["mAP"])
    other = harness.evaluate(
        run.folder, dataset="synthetic", data_root=tmp_path / "data", device="cpu"
    )
    assert other["dataset"] == "synthetic"
    (row,) = harness.load_results(tmp_path / "runs").to_dict("records")
    assert row["run"] == run.name and row["mAP"] == run.record["metrics"]["mAP"]


def test_label_and_score() -> None:
    rng = np.random.default_rng(0)
    ids = np.arange(12).repeat(8)
    features = rng.normal(size=(12, 32))[ids] + 0.1 * rng.normal(size=(96, 32))
    found = harness.label(features, "labeler.k1=6", "labeler.k2=2")
    assert len(found.labels) == 96 and len(set(found.labels[found.labels >= 0])) == 12
    query = np.arange(96) % 8 == 0
    sides = [{"features": features[rows], "ids": ids[rows]} for rows in (query, ~query)]
    assert harness.score(*sides).ranking.mAP == pytest.approx(1.0)
    reranked = harness.score(*sides, rerank=True).reranked
    assert reranked is not None and reranked.mAP == pytest.approx(1.0)


def test_options_of_labelers_as_keywords() -> None:
    features = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)
    written = harness.label(features, "labeler.k1=6", "labeler.k2=2", "labeler.eps=0.55")
    keywords = harness.label(features, k1=6, k2=2, eps=np.float64(0.55))
    np.testing.assert_array_equal(written.labels, keywords.labels)
    clusters = harness.label(features, labeler="kmeans", clusters=5).labels
    assert set(clusters) == set(range(5))
    with pytest.raises(ConfigError, match=r"labeler\.epss"):
        harness.label(features, epss=0.5)


def test_importing_it_is_cheap() -> None:
    code = (
        "import sys, harness; print([m for m in ('torch', 'pandas', 'hydra') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_it_is_fast() -> None:
    """The quickest of three, since other work shares the processors."""
    code = "import time; t = time.perf_counter(); import harness; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", code]
    times = [
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    assert min(times) < 0.2
