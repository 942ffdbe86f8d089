"""Damaged and missing files of a run are noticed, and healed or named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from harness.core.errors import DataError, HarnessError
from harness.experiment.evaluate import evaluate_run
from harness.experiment.experiment import Experiment
from harness.experiment.finished_networks import load_network
from harness.experiment.run import run_experiment
from harness.results.store import Run, Store
from tests.same import assert_same
from tests.tiny import tiny_config


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("content", ["{", '{"schema": 99}'])
def test_a_record_that_cannot_be_used_is_kept(tmp_path: Path, content: str) -> None:
    """It is neither trained over nor believed; overwrite=always replaces it."""
    config = tiny_config(tmp_path, "method=direct_transfer")
    record = run_experiment(config).folder / "record.json"
    record.write_text(content)
    with pytest.raises(DataError, match="cannot be used") as problem:
        run_experiment(config)
    assert "overwrite=always" in problem.value.hint and record.read_text() == content
    config.overwrite = "always"
    assert run_experiment(config).finished


def stopped_before_its_record(root: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Path:
    """The folder of a run that was stopped when all was done but the record."""
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "write_record", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(tiny_config(root, *overrides))
    (run,) = Store(root / "runs").runs()
    return run.folder


def flip_a_bit(path: Path) -> None:
    """Flip a bit of a weight."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_of_a_damaged_checkpoint_the_one_before_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One flipped bit is noticed, and the run ends as if nothing had happened."""
    whole = run_experiment(tiny_config(tmp_path / "whole", "method=cluster_contrast"))
    folder = stopped_before_its_record(tmp_path / "cut", monkeypatch, "method=cluster_contrast")
    flip_a_bit(folder / "checkpoint.pt")
    resumed = run_experiment(tiny_config(tmp_path / "cut", "method=cluster_contrast"))
    assert "continuing from the one before" in capsys.readouterr().out
    assert_same(whole, resumed)
    assert not list(folder.glob("checkpoint*"))


def test_two_damaged_checkpoints_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stopped_before_its_record(tmp_path, monkeypatch, "method=cluster_contrast")
    (folder / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes()[:100])
    torch.save({"readable": "but no checkpoint"}, folder / "checkpoint.previous.pt")
    with pytest.raises(DataError, match=r"checkpoint\.pt is damaged"):
        run_experiment(tiny_config(tmp_path, "method=cluster_contrast"))
    run_experiment(tiny_config(tmp_path, "method=cluster_contrast", "overwrite=always"))


def test_lost_files_come_back_or_are_named(
    reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checkpoint has the history, networks give the per-query results, nothing the networks."""
    folder = stopped_before_its_record(tmp_path, monkeypatch, "method=mskd")
    teacher = (folder / "teacher.pt").read_bytes()
    (folder / "teacher.pt").unlink()
    with pytest.raises(DataError, match=r"teacher\.pt of the finished stage 'teacher' is missing"):
        run_experiment(tiny_config(tmp_path, "method=mskd"))
    (folder / "teacher.pt").write_bytes(teacher)
    (folder / "history.json").unlink()
    (folder / "per_query.npz").write_bytes(b"PK damaged")
    assert_same(reference, run_experiment(tiny_config(tmp_path, "method=mskd")))


def test_damaged_weights_are_refused(reference: Run, tmp_path: Path) -> None:
    """A flipped bit of the weights would be another result."""
    store = shutil.copytree(reference.folder.parent, tmp_path / "runs")
    path = store / reference.name / "student.pt"
    flip_a_bit(path)
    with pytest.raises(DataError, match=r"student\.pt cannot be read as weights .*checksum"):
        load_network(Run(path.parent), "student")


def test_an_edited_configuration_is_not_believed(reference: Run, tmp_path: Path) -> None:
    """Networks of a finished run are built from its config.json, which its record identifies."""
    store = shutil.copytree(reference.folder.parent, tmp_path / "runs")
    path = store / reference.name / "config.json"
    config = json.loads(path.read_text())
    config["images"]["height"] = 64
    path.write_text(json.dumps(config))
    with pytest.raises(HarnessError, match=r"config\.json has changed since the record was made"):
        evaluate_run(reference.name, store=store)


def test_checkpoints_run_no_code(tmp_path: Path) -> None:
    """`weights_only=True`: a pickled function is refused, not called."""
    run = run_experiment(tiny_config(tmp_path, "method=direct_transfer"))
    torch.save({"a": os.system}, run.folder / "initial.pt")
    with pytest.raises(HarnessError, match="cannot be read"):
        load_network(run, "initial")
