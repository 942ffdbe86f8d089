"""`harness run -m`: one failing run does not stop the others, whatever launches them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.hydra import Hydra

from harness.core.errors import HarnessError
from harness.experiment import sweeps
from harness.results.store import Store
from tests.conftest import Command
from tests.tiny import tiny

# a plug-in, which processes that a launcher starts have to find, too
CONFIG = """\
defaults:
  - override /labeler: kmeans
  - override /objective: cluster_memory
method: {name: mine, uses_cameras: false}
labeler: {_target_: harness_plugins.methods.mine.method.Fickle, _recursive_: false, end: none}
stages:
  train: {}
"""
METHOD = """\
import os

from harness.core.errors import TrainingError
from harness.components.labelers import KMeans


class Fickle(KMeans):
    def __init__(self, end="none", **options):
        super().__init__(**options)
        self.end = end

    def label(self, features, cameras=None):
        if self.end == "error":
            raise TrainingError("It did not work.", "Try another.")
        if self.end == "bug":
            raise KeyError("a bug")
        if self.end == "kill":
            os.kill(os.getpid(), 9)
        return super().label(features, cameras)
"""


@pytest.fixture
def plugins(tmp_path: Path) -> str:
    """A folder for `--plugins` with a method that ends as `labeler.end` says."""
    folder = tmp_path / "plugins" / "methods" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "method.py").write_text(METHOD)
    return str(tmp_path / "plugins")


def _sweep(tmp_path: Path, plugins: str, ends: str, *more: str) -> list[str]:
    return [
        "--plugins", plugins, "run", "-m", "method=mine", f"labeler.end={ends}", *more,
        *tiny(tmp_path, "labeler.clusters=6", "train.epochs=1", "train.iterations=1", "threads=1"),
    ]  # fmt: skip


def _finished(tmp_path: Path) -> set[str]:
    return {r.config()["labeler"]["end"] for r in Store(tmp_path / "runs").runs() if r.finished}


def test_a_sweep_ends_with_what_failed_and_why(
    command: Command, tmp_path: Path, plugins: str
) -> None:
    answer = command(*_sweep(tmp_path, plugins, "error,bug,none"))
    assert answer.status == 1
    assert _finished(tmp_path) == {"none"}
    last = answer.err[answer.err.index("error: 2 of 3 runs failed") :].splitlines()
    assert last[1:] == [
        "  labeler.end=error", "    It did not work.", "    Try another.",
        "  labeler.end=bug", "    KeyError: 'a bug'",
    ]  # fmt: skip
    assert answer.err.count("Traceback") == 1, "a bug's own, where it happened"


def test_a_sweep_in_which_nothing_fails(command: Command, tmp_path: Path) -> None:
    answer = command("run", "-m", "method=direct_transfer", "seed=0,1", *tiny(tmp_path))
    assert answer.status == 0 and "failed" not in answer.err


@pytest.mark.slow
def test_joblib(command: Command, tmp_path: Path, plugins: str) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    more = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    answer = command(*_sweep(tmp_path, plugins, "error,none", *more))
    assert answer.status == 1 and _finished(tmp_path) == {"none"}
    assert "1 of 2 runs failed" in answer.err and "It did not work." in answer.err


@pytest.mark.slow
def test_joblib_whose_worker_is_killed(command: Command, tmp_path: Path, plugins: str) -> None:
    """joblib then gives up all of them; the command says how to resume."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    more = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    answer = command(*_sweep(tmp_path, plugins, "none,kill", *more))
    assert answer.status == 1
    assert "The launcher stopped" in answer.err and "The same command" in answer.err


@pytest.mark.slow
def test_submitit(command: Command, tmp_path: Path, plugins: str) -> None:
    """Runs as SLURM jobs on this machine: one is killed, the others go on."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    more = ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=20")
    answer = command(*_sweep(tmp_path, plugins, "error,none", *more))
    assert answer.status == 1 and _finished(tmp_path) == {"none"}
    assert "Jobs are submitted; their output is under" in answer.out
    assert "1 of 2 runs failed" in answer.err and "It did not work." in answer.err

    answer = command(*_sweep(tmp_path, plugins, "kill,none", *more, "seed=1"))
    assert answer.status == 1
    assert "The launcher stopped" in answer.err and "jobs that were submitted go on" in answer.err
    assert "labeler.end=kill\n    It has not ended: its process was killed" in answer.err
    until = time.monotonic() + 300
    while len(list((tmp_path / "runs").glob("*/record.json"))) < 2:
        assert time.monotonic() < until
        time.sleep(1)


@pytest.mark.slow
def test_submitit_with_several_tasks_a_job(command: Command, tmp_path: Path) -> None:
    """SLURM's tasks find each other without torchrun."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    launcher = ("submitit_local", "tasks_per_node=2", "timeout_min=5")
    answer = command(
        "run", "-m", "method=cluster_contrast", "batch.samples_per_bn=4", "train.epochs=1",
        *tiny(tmp_path), "threads=1", f"hydra/launcher={launcher[0]}",
        *(f"hydra.launcher.{option}" for option in launcher[1:]),
    )  # fmt: skip
    assert answer.status == 0, answer.err
    (run,) = Store(tmp_path / "runs").runs()
    assert run.record["processes"] == [2]


def test_a_sweep_that_stopped_is_forgotten_by_the_next_command(
    command: Command, tmp_path: Path, plugins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    multirun = Hydra.multirun

    def stopping(self: Hydra, *arguments: Any, **options: Any) -> None:
        multirun(self, *arguments, **options)
        raise RuntimeError("no queue")

    with monkeypatch.context() as patch:
        patch.setattr(Hydra, "multirun", stopping)
        answer = command(*_sweep(tmp_path, plugins, "error"))
    assert answer.status == 1
    assert "The launcher stopped" in answer.err and "It did not work." in answer.err
    answer = command("run", "method=direct_transfer", *tiny(tmp_path))
    assert answer.status == 0 and "failed" not in answer.err


def test_launchers_that_are_not_there(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "_is_installed", lambda module: False)
    run = ("run", "-m", "method=direct_transfer", *tiny(tmp_path))
    for launcher, extra in (("joblib", "joblib"), ("submitit_slurm", "slurm")):
        answer = command(*run, f"hydra/launcher={launcher}")
        assert answer.status == 2 and f'"usl-reid-harness[{extra}]"' in answer.err
    answer = command(*run, "hydra/launcher=submitit_slrum")
    assert answer.status == 2 and "Did you mean 'submitit_slurm'?" in answer.err
    assert not (tmp_path / "runs").exists()


def test_a_launcher_needs_something_to_launch(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    answer = command("run", "method=direct_transfer", "hydra/launcher=joblib", *tiny(tmp_path))
    assert answer.status == 2 and "Add -m." in answer.err


def test_errors_keep_their_hint_when_pickled(tmp_path: Path) -> None:
    import pickle

    error = pickle.loads(pickle.dumps(HarnessError("cause", "hint")))
    assert (error.cause, error.hint, str(error)) == ("cause", "hint", "cause\n  hint")
