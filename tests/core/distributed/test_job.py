"""`torchrun -m harness run`: how a job ends when one of its processes does, and goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.multiprocessing.spawn import ProcessExitedException

from harness.experiment.run import run_experiment
from harness.training.trainer import Trainer
from tests.core.distributed.together import run_cells, the_run, together
from tests.experiment.distributed_runs import CELLS, assert_alike
from tests.paths import ROOT
from tests.tiny import tiny, tiny_config

MSKD = CELLS["mskd"]


def _die_at(step: int, rank: int = 1) -> None:
    """Kill a process at its n-th training step, as a machine that is taken away would."""
    from harness.core.distributed import processes

    original, steps = Trainer.train_step, [0]

    def deadly(self: Trainer, *arguments: object) -> object:
        steps[0] += 1
        if steps[0] == step and processes.rank() == rank:
            os.kill(os.getpid(), 9)
        return original(self, *arguments)  # type: ignore[arg-type]

    Trainer.train_step = deadly  # type: ignore[method-assign, assignment]


def _killed(folder: Path, step: int, rank: int) -> None:
    _die_at(step, rank)
    run_cells(folder, {"mskd": MSKD})


@pytest.mark.slow
def test_killed_with_two_processes_resumed_with_one(tmp_path: Path) -> None:
    """The second stage's first epoch is under way when a process is killed."""
    with pytest.raises(ProcessExitedException):
        together(2, _killed, tmp_path / "killed", 6, 1)
    (folder,) = (tmp_path / "killed" / "mskd" / "runs").glob("[!.]*")
    assert (folder / "checkpoint.pt").is_file() and not (folder / "record.json").exists()
    resumed = run_experiment(tiny_config(tmp_path / "killed" / "mskd", *MSKD))
    whole = run_experiment(tiny_config(tmp_path / "whole", *MSKD))
    assert_alike(whole, resumed)
    assert resumed.record["processes"] == [2, 1]


# ------------------------------------------------------------------------------- under torchrun

# A process dies at its n-th step: RANK, n; or nothing happens: 0 0.
SCRIPT = """
import sys
from tests.core.distributed.test_job import _die_at
rank, step = int(sys.argv[1]), int(sys.argv[2])
if step:
    _die_at(step, rank)
from harness.cli.main import main
main(["run", *sys.argv[3:]])
"""


def _torchrun(
    folder: Path, *overrides: str, count: int = 2, rank: int = 0, step: int = 0
) -> subprocess.CompletedProcess[str]:
    """`torchrun -m harness run`, at most two minutes long."""
    script = folder / "job.py"
    folder.mkdir(exist_ok=True)
    script.write_text(SCRIPT)
    root = ROOT
    return subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={count}", script, str(rank), str(step),
            *tiny(folder, *overrides), "threads=1",
        ],
        capture_output=True, text=True, timeout=120, check=False, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _errors(job: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in job.stderr.splitlines() if line.startswith("error:")]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_kill_ends_the_job_and_the_same_command_goes_on(tmp_path: Path, rank: int) -> None:
    killed = _torchrun(tmp_path / "killed", *MSKD, rank=rank, step=7)
    assert killed.returncode == 1
    assert len(_errors(killed)) == 1 and "lost the others" in killed.stderr, killed.stderr
    assert killed.stderr.count("Traceback") == 1, "torchrun's own"
    resumed = _torchrun(tmp_path / "killed", *MSKD)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("going on with epoch") <= 1, "one alone prints"
    assert resumed.stdout.count("mskd (student): mAP") == 1
    whole = run_experiment(tiny_config(tmp_path / "whole", *MSKD))
    assert_alike(whole, the_run(tmp_path / "killed"))
    again = _torchrun(tmp_path / "killed", *MSKD)
    assert again.returncode == 0 and again.stdout.count("finished already") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "cause"),
    [
        (("method=mskd", "batch.samples_per_bn=8", "batch.images=6"), "groups of"),
        (("method=msk",), "There is no method 'msk'"),
        (("method=mskd", "labeler.eps=0.001"), "no clusters"),
    ],
)
def test_an_error_is_reported_once(tmp_path: Path, overrides: tuple[str, ...], cause: str) -> None:
    job = _torchrun(tmp_path, *overrides, "train.iterations=1", "train.epochs=1")
    assert job.returncode == 1
    (error,) = _errors(job)
    assert cause in error


@pytest.mark.slow
def test_a_sweep_under_torchrun(tmp_path: Path) -> None:
    """An experiment that fails in all processes does not stop the next one."""
    job = _torchrun(
        tmp_path, "-m", "method=cluster_contrast", "selection=lats,last", "train.epochs=1"
    )
    assert job.returncode == 1
    assert "1 of 2 cells failed" in job.stderr and "selection=lats" in job.stderr
    assert the_run(tmp_path).finished
