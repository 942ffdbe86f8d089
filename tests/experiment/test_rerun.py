"""`harness rerun`: the same command again, from what its config.json says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness.components.labelers.jaccard_dbscan import JaccardDBSCAN
from harness.core.errors import ConfigError
from harness.experiment.compose import compose
from harness.experiment.experiment import Experiment
from harness.experiment.rerun import restored
from harness.experiment.run import run_experiment
from harness.results.store import Run, Store
from tests.conftest import Command
from tests.data.test_joined import two
from tests.paths import LEADERBOARD
from tests.tiny import tiny, tiny_config

METHOD = "method=cluster_contrast"


def stopped(root: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str, failing: bool) -> Run:
    """A cell that came to an end in its second epoch."""

    def end(experiment: Experiment, *_: object) -> float:
        if len(experiment.progress.history) == 2:
            raise OSError("a broken disk") if failing else KeyboardInterrupt
        return 0.0

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "_time_left", end)
        with pytest.raises(OSError if failing else KeyboardInterrupt):
            run_experiment(tiny_config(root, *overrides))
    return next(run for run in Store(root / "runs").runs() if not run.finished)


def test_failed_and_unfinished_runs_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    whole = run_experiment(tiny_config(tmp_path / "whole", METHOD, "evaluation.every=1"))
    failed = stopped(tmp_path, monkeypatch, METHOD, "evaluation.every=1", failing=True)
    kept = run_experiment(tiny_config(tmp_path, METHOD, "seed=1"))
    unfinished = tmp_path / "runs" / "begun"
    begun = stopped(tmp_path / "other", monkeypatch, METHOD, "seed=2", failing=False)
    begun.folder.rename(unfinished.with_name(begun.name))
    store = ["--store", str(tmp_path / "runs")]
    listed = command("list", "runs", *store).out
    assert "failed: a broken disk (after train 0)" in listed and "unfinished after" in listed
    before = (kept.folder / "record.json").stat().st_mtime_ns
    places = [f"data.root={tmp_path}/data", "device=cpu"]
    answer = command("rerun", "--failed", *store, *places)
    assert answer.status == 0, answer.err
    assert f"{failed.name}: protocol" in answer.out and "going on with epoch 1" in answer.out
    assert begun.name not in answer.out
    assert Run(failed.folder).record["metrics"] == whole.record["metrics"]
    assert Run(failed.folder).record["settings"] == whole.record["settings"]
    answer = command("rerun", begun.name, *store, *places)
    assert answer.status == 0 and begun.name in answer.out, answer.err
    assert (kept.folder / "record.json").stat().st_mtime_ns == before
    answer = command("rerun", *store, *places)
    assert answer.status == 2 and "failed or is unfinished" in answer.err


def test_one_that_fails_again_does_not_keep_the_others(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(JaccardDBSCAN, "label", lambda *_: 1 / 0)
        for seed in range(2):
            with pytest.raises(ZeroDivisionError):
                run_experiment(tiny_config(tmp_path, METHOD, f"seed={seed}"))
    first = next(iter(Store(tmp_path / "runs").runs()))
    config = json.loads((first.folder / "config.json").read_text())
    config["labeler"]["min_samples"] = 60
    (first.folder / "config.json").write_text(json.dumps(config))
    command_line = ["rerun", "--store", f"{tmp_path}/runs", f"data.root={tmp_path}/data"]
    answer = command(*command_line)
    assert answer.status == 1 and "cannot be restored from its config.json" in answer.err
    assert f"1 of 2 failed: {first.name}" in answer.err
    assert [run.finished for run in Store(tmp_path / "runs").runs()] == [False, True]


def test_what_is_refused(tmp_path: Path, command: Command) -> None:
    run = run_experiment(tiny_config(tmp_path, "method=direct_transfer"))
    store = ["--store", f"{tmp_path}/runs"]
    for words, said in {
        run.name: "is finished",
        "nothing": "no run 'nothing'",
        "optimizer.lr=1": "a rerun keeps its run's settings",
        "data.rot=x": "Did you mean 'data.root'?",
        "--failed": "No run in",
    }.items():
        answer = command("rerun", words, *store)
        assert answer.status == 2 and said in answer.err, (words, answer.err)


def same(run: Run, **said: str) -> str:
    """The name of the cell that a run's config.json gives."""
    from harness.experiment.plan import make_plan

    config = restored(run, {"device": "cpu", **said})
    return make_plan(config, "fp32").name


def test_every_committed_configuration_gives_its_cell_again(tmp_path: Path) -> None:
    """But for those whose weights are not here."""
    found = Store(LEADERBOARD).runs()
    runs = [run for run in found if "-s0-" in run.name and "synthetic" in run.name]
    assert len(runs) >= 10
    for run in runs:
        assert same(run) == run.name


def test_weights_are_found_by_name_and_digest(tmp_path: Path) -> None:
    network = run_experiment(tiny_config(tmp_path, "method=direct_transfer"))
    weights = tmp_path / "some.pth"
    state = torch.load(network.folder / "initial.pt", weights_only=True)
    trunk = {k.removeprefix("trunk."): v for k, v in state.items() if k.startswith("trunk.")}
    torch.save(trunk or state, weights)
    run = Run(tmp_path / "runs" / "mine")
    run.folder.mkdir()
    from harness.experiment.plan import make_plan

    config = compose([*tiny(tmp_path, "method=direct_transfer"), f"backbone.weights={weights}"])
    (run.folder / "config.json").write_text(json.dumps(make_plan(config, "fp32").settings))
    assert str(tmp_path) not in (run.folder / "config.json").read_text()
    run = Run(run.folder.rename(run.folder.with_name(make_plan(config, "fp32").name)))
    with pytest.raises(ConfigError, match=r"some\.pth sha256:\w+ were not found.*\n.*weights=FILE"):
        same(run)
    assert same(run, **{"backbone.weights": str(weights)}) == run.name
    assert same(run, **{"data.root": str(tmp_path)}) == run.name, "found beside the data"
    (tmp_path / "other.pth").write_bytes(b"other")
    with pytest.raises(ConfigError, match=r"is other\.pth"):
        same(run, **{"backbone.weights": str(tmp_path / "other.pth")})


def test_a_teacher_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = run_experiment(tiny_config(tmp_path, METHOD))
    pupil = stopped(
        tmp_path, monkeypatch, METHOD, "distiller=offline_teacher",
        f"distiller.teacher={teacher.name}", "evaluation.every=1", failing=True,
    )  # fmt: skip
    assert same(pupil) == pupil.name
    assert run_experiment(
        restored(pupil, {"data.root": f"{tmp_path}/data", "device": "cpu"})
    ).finished


def test_a_network_to_begin_from_and_joined_sets_are_found_again(tmp_path: Path) -> None:
    source = run_experiment(tiny_config(tmp_path, METHOD))
    begun = run_experiment(tiny_config(tmp_path, METHOD, f"init={source.name}"))
    joined = run_experiment(compose(two(tmp_path, METHOD)))
    for run in (begun, joined):
        assert same(run, **{"data.root": f"{tmp_path}/data"}) == run.name
