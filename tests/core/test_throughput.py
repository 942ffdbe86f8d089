"""Speed and cost in records and in `load`, also of records from before they were there."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from harness.core.throughput import highest, stage_throughput
from harness.experiment.run import run_experiment
from harness.results.store import load
from tests.core.test_precision import Killed
from tests.tiny import tiny_config

PHASES = ("extract", "label", "search", "jaccard", "cluster", "train", "test")


def row(**values: float) -> dict[str, float]:
    return {"seconds_train": 10.0, "images_per_second": 100.0, **values}


def row_of(folder: Path, stage: str) -> dict[str, Any]:
    (found,) = (r for r in load(folder / "runs").to_dict("records") if r["stage"] == stage)
    return {str(key): value for key, value in found.items()}


def test_a_stages_throughput() -> None:
    rows = [
        row(
            waiting_seconds=0.1,
            cpu_share=0.5,
            extract_images_per_second=400.0,
            label_seconds_search=1.0,
        ),
        row(images_per_second=120.0, cpu_share=1.0, waiting_seconds=0.2, label_seconds_search=2.5),
        row(images_per_second=90.0, extract_images_per_second=300.0, label_seconds_cluster=0.5),
    ]
    assert stage_throughput(rows) == {
        "images_per_second": 100.0,
        "extract_images_per_second": 350.0,
        "label_seconds": {"search": 3.5, "cluster": 0.5},
        "cpu_share": 0.75,
        "waiting": 0.01,
    }
    assert stage_throughput([row()])["extract_images_per_second"] is None
    assert stage_throughput([row()])["cpu_share"] is None


def test_the_highest_peak_of_all_processes() -> None:
    assert highest({"host": 3.0, "device": 9.0}, {"host": 5.0}) == {"host": 5.0, "device": 9.0}
    assert highest({}, {"host": 1.0}) == {"host": 1.0}


def test_record_and_table(tmp_path: Path) -> None:
    run = run_experiment(tiny_config(tmp_path, "method=mskd"))
    record = run.record
    assert record["device_hours"] == pytest.approx(record["seconds"] / 3600, abs=1e-5)
    assert record["devices"] == 1 and record["memory_mib"]["host"] > 0
    assert record["pipeline"] == {"image_cache": "mmap", "compile": "off"}
    for stage in record["stages"].values():
        assert stage["extract_images_per_second"] > 0 and 0 <= stage["waiting"] < 1
        steps = stage["label_seconds"]
        assert set(steps) == {"search", "jaccard", "cluster"}
        assert 0 < sum(steps.values()) <= stage["seconds"]["label"] + 0.01
    student = row_of(tmp_path, "student")
    for phase in PHASES:
        assert student[f"seconds_{phase}"] >= 0
    assert student["extract_images_per_second"] > 0
    assert student["memory_host"] == record["memory_mib"]["host"]

    for key in ("devices", "device_hours", "memory_mib", "pipeline"):
        del record[key]
    for stage in record["stages"].values():
        for key in ("extract_images_per_second", "label_seconds", "waiting"):
            del stage[key]
    (run.folder / "record.json").write_text(json.dumps(record))
    old = row_of(tmp_path, "student")
    assert old["device_hours"] == pytest.approx(record["seconds"] / 3600)
    assert old["seconds_train"] > 0
    for key in ("seconds_search", "extract_images_per_second", "memory_host"):
        assert old[key] is None or math.isnan(old[key])


def test_untrained_networks_have_the_speed_of_extraction(tmp_path: Path) -> None:
    run = run_experiment(tiny_config(tmp_path, "method=direct_transfer"))
    assert run.record["stages"]["initial"]["extract_images_per_second"] > 0
    assert run.record["pipeline"] == {"image_cache": None, "compile": "off"}


def test_peaks_outlive_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> dict[str, float]:
        raise Killed

    config = tiny_config(tmp_path, "method=cluster_contrast")
    with monkeypatch.context() as patch:
        patch.setattr("harness.experiment.run_files.peak_memory", lambda device: {"host": 123456.0})
        patch.setattr("harness.experiment.experiment.Experiment.write_record", killed)
        with pytest.raises(Killed):
            run_experiment(config)
    assert run_experiment(config).record["memory_mib"]["host"] == 123456.0
