"""`overwrite=`: what a command does where its cell has been run before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from harness.core.errors import ConfigError, DataError, TrainingError
from harness.evaluation import kept_features
from harness.experiment.experiment import Experiment
from harness.experiment.finished_networks import load_network
from harness.experiment.plan import make_plan
from harness.experiment.run import run_experiment
from harness.experiment.run_files import RunFiles
from harness.results.run_status import state
from harness.results.store import LOG, Run, Store
from harness.results.store_check import file_problems
from harness.training.trainer import Trainer
from tests.tiny import tiny_config

METHOD = "method=cluster_contrast"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one finished cell."""
    root = tmp_path_factory.mktemp("made")
    run_experiment(tiny_config(root, METHOD))
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of it to do as one likes with."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def only(root: Path) -> Run:
    (run,) = Store(root / "runs").runs()
    return run


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """No epoch may be run."""
    monkeypatch.setattr(Trainer, "epochs", lambda self: pytest.fail("it was trained"))


def missing(root: Path, *overrides: str) -> Run:
    return run_experiment(tiny_config(root, METHOD, "overwrite=backfill", *overrides))


@pytest.mark.usefixtures("untrained")
def test_skip_and_backfill_leave_complete_runs_unchanged(root: Path) -> None:
    before = contents(only(root).folder)
    run_experiment(tiny_config(root, METHOD))
    missing(root)
    assert contents(only(root).folder) == before


def test_always_starts_afresh(root: Path) -> None:
    run = only(root)
    (run.folder / "train_features.npz").touch()
    (run.folder / "evaluation-train-plain.json").touch()
    before = (run.folder / "record.json").stat().st_mtime_ns
    again = run_experiment(tiny_config(root, METHOD, "overwrite=always"))
    assert (again.folder / "record.json").stat().st_mtime_ns > before
    assert again.record["metrics"] == run.record["metrics"]
    assert not {"train_features.npz", "evaluation-train-plain.json"} & {
        path.name for path in again.folder.iterdir()
    }


def contents(folder: Path) -> dict[str, bytes]:
    """The content of each file but lock and log."""
    files = [path for path in folder.iterdir() if path.is_file()]
    return {p.name: p.read_bytes() for p in files if p.name not in (".lock", LOG)}


def test_a_finished_result_stays_until_the_new_one_is_complete(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, failed, stopped, then continued: only a complete record replaces the old one."""
    run = only(root)
    before = contents(run.folder)
    always = (METHOD, "overwrite=always")
    with monkeypatch.context() as patch:
        problem = DataError("The data are away.")
        patch.setattr("harness.experiment.preflight.load_data", Mock(side_effect=problem))
        with pytest.raises(DataError, match="away"):
            run_experiment(tiny_config(root, *always))
    assert contents(run.folder) == before
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", Mock(side_effect=TrainingError("it failed")))
        with pytest.raises(TrainingError):
            run_experiment(tiny_config(root, *always))
    assert contents(run.folder) == before and "overwrite=always failed: it failed" in str(
        state(run)
    )
    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "write_record", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_experiment(tiny_config(root, *always))
    assert contents(run.folder) == before
    monkeypatch.setattr(Trainer, "train_step", Mock(side_effect=AssertionError("trained again")))
    again = run_experiment(tiny_config(root, *always))
    assert again.record["metrics"] == run.record["metrics"]
    after = contents(again.folder)
    assert after.keys() == before.keys() and after["record.json"] != before["record.json"]
    assert not [path for path in again.folder.iterdir() if path.is_dir()]


@pytest.mark.parametrize("moved", range(5))
def test_a_replacement_that_was_killed_while_it_was_moved(
    root: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    run, calls = only(root), 0
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += self.parent.name.startswith(".replacement") or self.name == ".replacement"
        if calls > moved:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        put = RunFiles.put_in_place

        def put_in_place(files: RunFiles) -> None:
            if files.replaces:  # not before training
                patch.setattr(Path, "replace", killed)
            put(files)

        patch.setattr(RunFiles, "put_in_place", put_in_place)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(tiny_config(root, METHOD, "overwrite=always"))
    if moved:
        assert "interrupted" in str(Run(run.folder).problem)
    again = run_experiment(tiny_config(root, METHOD))
    assert again.finished and contents(again.folder).keys() == contents(only(root).folder).keys()
    assert not [path for path in again.folder.iterdir() if path.is_dir()]
    assert load_network(again, "train") is not None


@pytest.mark.usefixtures("untrained")
def test_results_by_query_and_metrics_that_are_missing_come_back(root: Path) -> None:
    whole = only(root)
    record, path = dict(whole.record), whole.folder / "per_query.npz"
    with np.load(path) as arrays:
        ap = arrays["train_ap"]
    path.write_bytes(path.read_bytes()[:100])
    older = json.loads((whole.folder / "record.json").read_text())
    for metrics in (older["metrics"], older["stages"]["train"]["metrics"]):
        del metrics["rank20"], metrics["mINP"]
    (whole.folder / "record.json").write_text(json.dumps(older))
    assert "mINP" not in run_experiment(tiny_config(root, METHOD)).record["metrics"]
    again = missing(root)
    with np.load(path) as arrays:
        np.testing.assert_allclose(arrays["train_ap"], ap, atol=1e-6)
        assert {"query_identity", "train_inp"} <= set(arrays.files)
        kept = {name: arrays[name] for name in arrays.files if name != "train_inp"}
    assert again.record["metrics"]["mINP"] == record["metrics"]["mINP"]
    np.savez_compressed(path, allow_pickle=False, **kept)  # as before INP was kept
    missing(root)
    with np.load(path) as arrays:
        assert "train_inp" in arrays
    assert again.record["metrics"]["rank20"] == record["metrics"]["rank20"]
    assert again.record["seconds"] == record["seconds"] and not list(file_problems([again]))


@pytest.mark.usefixtures("untrained")
def test_features_that_are_to_be_kept(root: Path) -> None:
    run = only(root)
    assert kept_features.load(run.folder, "train") is None
    missing(root, "evaluation.keep_features=true")
    kept = kept_features.load(run.folder, "train")
    assert kept is not None and len(kept.query) == run.record["dataset"]["query"]
    assert Run(run.folder).name == run.name, "what is kept is no other cell"


@pytest.mark.usefixtures("untrained")
def test_another_evaluation_is_made_by_the_networks_that_are_there(root: Path) -> None:
    source = only(root)
    run = missing(root, "evaluation.rerank=true", "evaluation.every=1")
    assert run.name != source.name and run.record["networks_of"] == source.name
    assert (
        run.name
        == make_plan(
            tiny_config(root, METHOD, "evaluation.rerank=true", "evaluation.every=1"), "fp32"
        ).name
    )
    assert run.record["protocol"]["hash"] != source.record["protocol"]["hash"]
    assert "re-ranking" in run.record["protocol"]["evaluation"]
    assert run.record["metrics"] != source.record["metrics"]
    assert run.record["seconds"] >= source.record["seconds"]
    assert not list(file_problems([run])) and (run.folder / "train.pt").is_file()
    assert [row["loss"] for row in run.history()] == [row["loss"] for row in source.history()]
    assert not any("mAP" in row for row in run.history()), "measured by another rule"


def test_networks_of_other_settings_are_not_taken(root: Path) -> None:
    run = missing(root, "evaluation.rerank=true", "optimizer.lr=1e-4")
    assert "networks_of" not in run.record
    run = missing(root, "evaluation.rerank=true", "seed=1")
    assert "networks_of" not in run.record


@pytest.mark.usefixtures("untrained")
def test_a_network_that_is_not_the_records_is_refused(root: Path) -> None:
    run = only(root)
    (run.folder / "per_query.npz").unlink()
    older: dict[str, Any] = json.loads((run.folder / "record.json").read_text())
    for metrics in (older["metrics"], older["stages"]["train"]["metrics"]):
        metrics["mAP"] += 5
    (run.folder / "record.json").write_text(json.dumps(older))
    with pytest.raises(DataError, match="nothing was changed"):
        missing(root)
    assert not (run.folder / "per_query.npz").exists()
    (run.folder / "train.pt").unlink()
    with pytest.raises(ConfigError, match="kept no weights"):
        missing(root)


def test_with_several_stages_a_wrong_network_changes_nothing(tmp_path: Path) -> None:
    """The first stage agrees with the record; nothing of it may be written before the second."""
    mskd = tiny_config(tmp_path, "method=mskd", "train.epochs=1")
    folder = run_experiment(mskd).folder
    (folder / "per_query.npz").unlink()
    record: dict[str, Any] = json.loads((folder / "record.json").read_text())
    right = json.dumps(record)
    assert list(record["stages"]) == ["teacher", "student"]
    record["stages"]["student"]["metrics"]["mAP"] += 5
    (folder / "record.json").write_text(json.dumps(record))
    before = contents(folder)
    mskd.overwrite = "backfill"
    with pytest.raises(DataError, match=r"student of .* nothing was changed"):
        run_experiment(mskd)
    assert contents(folder) == before
    (folder / "record.json").write_text(right)
    run_experiment(mskd)
    with np.load(folder / "per_query.npz") as arrays:
        for stage in ("teacher", "student"):
            mean = record["stages"][stage]["metrics"]["mAP"] - 5 * (stage == "student")
            assert 100 * arrays[f"{stage}_ap"].mean() == pytest.approx(mean, abs=0.1)


def test_unknown_strategies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="overwrite=backfil is unknown"):
        run_experiment(tiny_config(tmp_path, METHOD, "overwrite=backfil"))
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_says_why_until_it_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no clusters"):
        run_experiment(tiny_config(tmp_path, METHOD, "labeler.min_samples=60", "name=mine"))
    run = only(tmp_path)
    assert state(run).kind == "failed" and "no clusters" in state(run).detail
    done = run_experiment(tiny_config(tmp_path, METHOD, "name=mine"))
    assert done.finished and not (done.folder / "failed.json").exists()
