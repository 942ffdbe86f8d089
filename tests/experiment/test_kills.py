"""Runs that are killed and given again end like those left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.experiment.run import run_experiment
from harness.results.store import Run
from tests.experiment import kills
from tests.paths import ROOT
from tests.same import assert_same
from tests.tiny import tiny, tiny_config

# Kills this very process at the n-th call of a function, as a power cut would.
BOMB = """
import importlib, os, signal, sys
module, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner = importlib.import_module(module)
*path, last = name.split(".")
for part in path:
    owner = getattr(owner, part)
original, calls = getattr(owner, last), [0]
def bomb(*args, **kwargs):
    calls[0] += 1
    if calls[0] == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args, **kwargs)
setattr(owner, last, bomb)
import torch
torch.set_num_threads(1)
from harness.cli.main import main
main(["run", *sys.argv[4:]])
"""


@pytest.mark.parametrize(
    ("module", "name", "count"),
    [
        ("harness.training.trainer", "Trainer.train_step", 7),  # in the student's warm-up epoch
        ("harness.core.files", "os.fsync", 5),  # in the middle of writing the first checkpoints
        pytest.param("harness.core.files", "os.fsync", 13, marks=pytest.mark.slow),
        pytest.param(  # while labels are made
            "harness.components.labelers.jaccard_dbscan",
            "JaccardDBSCAN.label",
            2,
            marks=pytest.mark.slow,
        ),
        pytest.param(  # all is done but the record
            "harness.experiment.run_files", "peak_memory", 1, marks=pytest.mark.slow
        ),
    ],
)
def test_killed_and_resumed(
    reference: Run, tmp_path: Path, module: str, name: str, count: int
) -> None:
    overrides = tiny(tmp_path, "method=mskd")
    killed = subprocess.run(
        [sys.executable, "-c", BOMB, module, name, str(count), *overrides],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    folder = tmp_path / "runs" / reference.name
    assert folder.is_dir() and not (folder / "record.json").exists()
    resumed = run_experiment(tiny_config(tmp_path, "method=mskd"))
    assert_same(reference, resumed)
    assert (resumed.folder / "log.txt").read_text().count(f"{resumed.name}: protocol") == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", kills.KINDS)
def test_killed_at_random_moments(tmp_path: Path, kind: str) -> None:
    """Ten kills and more; HARNESS_SEED chooses other moments."""
    seed = os.environ.get("HARNESS_SEED", "0")
    done = subprocess.run(
        [sys.executable, "-m", "tests.experiment.kills", tmp_path, seed, "10", kind],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, f"HARNESS_SEED={seed}\n{done.stderr[-3000:]}"


def killed_in(
    folder: Path, settings: tuple[str, ...], module: str, function: str, call: int
) -> Run:
    """A run that was killed in the n-th call of a function, and then finished."""
    command = [sys.executable, "-c", BOMB, module, function, str(call), *tiny(folder, *settings)]
    killed = subprocess.run(command, capture_output=True, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    return run_experiment(tiny_config(folder, *settings))


def test_killed_and_resumed_with_labels_that_grow(tmp_path: Path) -> None:
    """The second epoch's labels are merged from the first's, which only the checkpoint has."""
    settings = ("method=cluster_contrast", "labeler=bottom_up", "labeler.share=0.3")
    whole = run_experiment(tiny_config(tmp_path / "whole", *settings))
    images = whole.record["dataset"]["train"]
    assert [row["clusters"] for row in whole.history()] == [images, images - int(images * 0.3)]
    assert_same(
        whole,
        killed_in(
            tmp_path / "killed",
            settings,
            "harness.components.labelers.bottom_up",
            "BottomUp.label",
            2,
        ),
    )


def test_killed_and_resumed_with_oracle_and_grouped_statistics(tmp_path: Path) -> None:
    settings = (
        "method=mskd", "selection=oracle", "evaluation.every=1", "batch.samples_per_bn=8",
    )  # fmt: skip
    whole = run_experiment(tiny_config(tmp_path / "whole", *settings))
    assert_same(
        whole,
        killed_in(
            tmp_path / "killed", settings, "harness.training.trainer", "Trainer.train_step", 8
        ),
    )


def test_what_a_kill_left_is_swept(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "method=direct_transfer")
    run = run_experiment(config)
    (run.folder / "record.json").unlink()
    (run.folder / "checkpoint.pt.123.tmp").write_bytes(b"half")
    assert not list(run_experiment(config).folder.glob("*.tmp"))


def test_what_a_kill_left_beside_a_record_is_swept(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "method=direct_transfer")
    run = run_experiment(config)
    for name in ("checkpoint.pt", "checkpoint.previous.pt", "record.json.1-a.tmp"):
        (run.folder / name).write_bytes(b"left")
    run_experiment(config)
    assert not [*run.folder.glob("checkpoint*"), *run.folder.glob("*.tmp")]
