"""`selection=label_free`: the checkpoint that is best by a criterion without labels."""

from __future__ import annotations

from pathlib import Path

from harness.evaluation.label_free import column, read_label_free
from harness.experiment.plan import make_plan
from harness.experiment.run import run_experiment
from harness.results.store import Run
from tests.tiny import tiny_config


def ran(folder: Path, *overrides: str) -> Run:
    """A tiny cell whose epochs are all looked at."""
    options = ["method=cluster_contrast", "evaluation.every=1", "train.epochs=4"]
    return run_experiment(tiny_config(folder, *options, *overrides))


def test_the_checkpoint_of_the_best_epoch_is_kept(tmp_path: Path) -> None:
    chosen = ran(tmp_path, "selection=label_free", "evaluation.label_free=[neighbours]")
    rows = chosen.history()
    key = column("neighbours")
    best = max(rows, key=lambda row: row[key])
    stage = chosen.record["stages"]["train"]
    assert stage["epoch"] == best["epoch"]
    assert chosen.record["metrics"]["mAP"] == best["mAP"]
    assert key not in chosen.record["metrics"]
    assert chosen.record["protocol"]["selection"] == "label_free, neighbours"
    last = ran(tmp_path)
    # looking changes nothing: the epochs are those of a run without
    plain = [{k: row[k] for k in ("loss", "mAP")} for row in last.history()]
    assert plain == [{k: row[k] for k in ("loss", "mAP")} for row in rows]
    assert last.record["protocol"]["hash"] == chosen.record["protocol"]["hash"]
    assert last.record["settings"] != chosen.record["settings"]


def test_its_first_criterion_is_the_default(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "method=cluster_contrast", "selection=label_free")
    assert read_label_free(config)[0] == ("cross_camera",)
    assert make_plan(config, "fp32").card["selection"] == "label_free, cross_camera"
