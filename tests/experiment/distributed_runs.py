"""Tiny cells whose results are compared: whole and in pieces, by one process and by two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.experiment.experiment import Experiment
from harness.experiment.run import run_experiment
from harness.results.store import Run
from harness.training.trainer import Trainer
from tests.tiny import tiny_config

GROUPS = "batch.samples_per_bn=4"  # of batches of 16
ONE_EPOCH = ("train.epochs=1", "train.iterations=3")
#: labels are discrete: after an epoch, rounding may move an image of these over a border
CELLS: dict[str, tuple[str, ...]] = {
    "mskd": ("method=mskd", GROUPS),
    "mmt": ("method=mmt", GROUPS, *ONE_EPOCH),
    "ice": ("method=ice", GROUPS, *ONE_EPOCH),
    "dcmip": ("method=dcmip", GROUPS, *ONE_EPOCH),
    "spcl": ("method=spcl", GROUPS),
    "spcl with a source": ("method=spcl/uda", GROUPS),
    "cluster contrast": ("method=cluster_contrast", GROUPS),
    "pplr": ("method=pplr", GROUPS, *ONE_EPOCH),
    "cap": ("method=cap", GROUPS, "objective.inter_epoch=0", *ONE_EPOCH),
    "o2cap": ("method=o2cap", GROUPS, *ONE_EPOCH),
    "ise": ("method=ise", GROUPS, "labeler.eps=0.5", *ONE_EPOCH),
    "3c": ("method=3c", GROUPS, *ONE_EPOCH),
    "ncplr": ("method=ncplr", GROUPS, *ONE_EPOCH),
    "ncplr with parts": (  # Adam would follow the sign of gradients that are rounding only
        "method=ncplr/parts", GROUPS, "optimizer.name=sgd", "optimizer.lr=0.001", *ONE_EPOCH,
    ),
    "rtmem": ("method=rtmem", GROUPS, *ONE_EPOCH),
    "hhcl": ("method=hhcl", GROUPS, *ONE_EPOCH),
    "running statistics": (
        "method=cluster_contrast", "distiller=mean_teacher", "distiller.batch_norm=eval", GROUPS,
        *ONE_EPOCH,
    ),
}  # fmt: skip


@contextmanager
def states() -> Iterator[dict[str, dict[str, Tensor]]]:
    """Of the cells that are run meanwhile: stage → all state at its end, memories included."""
    found: dict[str, dict[str, Tensor]] = {}
    original = Experiment._end_stage

    def spied(self: Experiment, name: str, metrics: Any, trainer: Trainer) -> None:
        state = {k: v.clone() for k, v in trainer.trained.state_dict().items() if _is_tensor(v)}
        for key in ("memory", "hard", "mean"):
            value = getattr(trainer.components.objective, key, None)
            if isinstance(value, Tensor):
                state[f"objective's {key}"] = value.clone()
        found[name] = state
        original(self, name, metrics, trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "_end_stage", spied)
        yield found


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def run_whole(folder: Path, overrides: Sequence[str]) -> tuple[Run, dict[str, dict[str, Tensor]]]:
    """A cell, and all state of its stages."""
    with states() as found:
        run = run_experiment(tiny_config(folder, *overrides))
    return run, found


def assert_alike(one: Run, other: Run) -> None:
    """The same cell with the same labels; losses, weights and running statistics to rounding."""
    assert one.name == other.name and one.record["settings"] == other.record["settings"]
    for ours, theirs in zip(one.history(), other.history(), strict=True):
        assert ours["clusters"] == theirs["clusters"]
        assert ours["outliers"] == theirs["outliers"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-5)
    for path in one.folder.glob("*.pt"):
        a, b = (torch.load(run.folder / path.name, weights_only=True) for run in (one, other))
        assert_states_alike(a, b)


def assert_states_alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """All numbers to rounding, which Adam's first steps make larger; counts exactly."""
    assert one.keys() == other.keys() and one
    for key, value in one.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, other[key], rtol=1e-4, atol=1e-4, msg=key)
        else:
            assert torch.equal(value, other[key]), key
