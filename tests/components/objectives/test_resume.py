"""Objectives that keep more than an epoch's memory go on where they were when a run is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.experiment.run import run_experiment
from harness.training.trainer import Trainer
from tests.tiny import tiny_config


class Killed(BaseException):
    """As a kill does, it passes by whatever handles errors."""


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("cap", "objective.inter_epoch=2"),
        ("pplr", "objective.aals_epoch=2"),
        ("pplr", "objective.camera_weight=0.5"),
        ("ise", "objective.step=4.0"),  # by the progress
        ("rtmem", "objective.instance_weight=1.2"),
        ("rtmem/shipped", "objective.instance_weight=1.2"),
        ("ncplr", "objective.topk=3"),
        ("ncplr/parts", "objective.fused=false"),
    ],
)
def test_the_same_numbers_after_a_kill(
    method: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (f"method={method}", setting, "train.epochs=3")
    whole = run_experiment(tiny_config(tmp_path / "whole", *settings))
    step, calls = Trainer.train_step, [0]

    def until_killed(*args: object) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 6:  # in the third epoch of two iterations
            raise Killed
        return step(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "train_step", until_killed)
        run_experiment(tiny_config(tmp_path / "killed", *settings))
    resumed = run_experiment(tiny_config(tmp_path / "killed", *settings))
    assert resumed.record["metrics"] == whole.record["metrics"]
    losses = [[row["loss"] for row in run.history()] for run in (whole, resumed)]
    assert losses[0] == losses[1] and len(losses[0]) == 3
