"""SpCL and BUC from epoch to epoch, also when interrupted.

BUC also runs as published on a small network, with its optimizer, sampler, label schedule,
augmentation and neck.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.components.objectives import ExclusiveMemory
from harness.experiment.compose import compose
from harness.experiment.run import run_experiment
from harness.results.store import Run
from harness.training.label_schedule import label_schedule
from harness.training.optimizers import learning_rate
from harness.training.trainer import Trainer
from tests.tiny import TINY, tiny, tiny_config

#: BUC's published protocol on a small network
PUBLISHED = [
    "method=buc", "protocol=published", "backbone=resnet18", "backbone.weights=none",
    "backbone.last_stride=2", "backbone.neck=embedding", "train.epochs=4",
    "train.label_every=[2,1]", "optimizer.steps=[1]",
    *(x for x in TINY if not x.startswith(("protocol", "backbone", "images.pad"))),
]  # fmt: skip


def places(folder: Path) -> list[str]:
    """The folders of data and records."""
    return [f"store={folder}/runs", f"data.root={folder}/data"]


def overrides(case: str, folder: Path) -> list[str]:
    """The overrides of a case."""
    if case == "buc, published":
        return [*PUBLISHED, *places(folder)]
    return tiny(folder, f"method={case}", "train.epochs=4")


def same(one: Run, other: Run) -> None:
    """Metrics, losses, labels and weights, bit for bit."""
    assert one.record["metrics"] == other.record["metrics"]
    for a, b in zip(one.history(), other.history(), strict=True):
        for key in ("epoch", "lr", "loss", "clusters", "outliers", "ari", "iterations"):
            assert a[key] == b[key]
    states = [torch.load(run.folder / "train.pt", weights_only=True) for run in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize(
    "case", ["spcl", "buc", pytest.param("buc, published", marks=pytest.mark.slow)]
)
def test_interrupted_in_every_epoch_and_resumed(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each start gets one epoch further, with new labels or those of the previous epoch."""
    whole = run_experiment(compose(overrides(case, tmp_path / "whole")))
    steps = [row["iterations"] for row in whole.history()]
    assert len(steps) == 4
    original = Trainer.train_step
    for epoch in range(1, 4):
        # finish the interrupted epoch, then stop in the middle of the next one
        left = [steps[epoch - 1] + steps[epoch] // 2]

        def interrupted(*arguments: Any, left: list[int] = left) -> torch.Tensor:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_step", interrupted)
            with pytest.raises(KeyboardInterrupt):
                run_experiment(compose(overrides(case, tmp_path / "parts")))
    same(whole, run_experiment(compose(overrides(case, tmp_path / "parts"))))


def test_spcl_labels_from_its_memory_by_the_first_epochs_threshold(tmp_path: Path) -> None:
    run = run_experiment(tiny_config(tmp_path, "method=spcl", "train.epochs=3"))
    rows = run.history()
    assert ["seconds_extract" in row for row in rows] == [True, False, False]
    assert len({row["label_threshold"] for row in rows}) == 1
    for row in rows:
        assert row["label_singles"] >= row["outliers"] > 0, "outliers are trained as single images"
        assert 0 < row["clusters"] < run.record["dataset"]["train"]


def test_buc_merges_until_a_tenth_is_left(tmp_path: Path) -> None:
    run = run_experiment(
        tiny_config(tmp_path, "method=buc", "train.epochs=14", "train.iterations=1")
    )
    images = run.record["dataset"]["train"]
    clusters = [row["clusters"] for row in run.history()]
    assert clusters[:5] == [images] * 5
    assert clusters[-1] == images - 18 * int(0.05 * images)
    assert clusters == sorted(clusters, reverse=True)


def test_buc_as_published() -> None:
    """A rate of 0.1, then 0.01; labels after 20 epochs and then after every two."""
    config = compose(["method=buc", "dataset=market1501", "protocol=published"])
    train = config.train
    made = [e for e, n in enumerate(label_schedule(train.label_every, train.epochs)) if n]
    assert made == [0, *range(20, 56, 2)] and train.epochs == 56
    rates = [learning_rate(config.optimizer, epoch, 56) for epoch in range(56)]
    np.testing.assert_allclose(rates, [0.1] * 16 + [0.01] * 40, rtol=1e-12)
    assert (config.backbone.last_stride, config.backbone.neck) == (2, "embedding")
    common = compose(["method=buc", "dataset=market1501", "protocol=common"])
    assert (common.backbone.last_stride, common.backbone.neck) == (1, "bn")
    assert sum(label_schedule(common.train.label_every, common.train.epochs)) == 19


def test_bucs_parameter_groups_and_reset_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[float], bool]] = []
    original = Trainer.train_step

    def spied(self: Trainer, *arguments: Any) -> torch.Tensor:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        seen.append((rates, not self.optimizer.state))
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "train_step", spied)
    run = run_experiment(compose([*PUBLISHED, *places(tmp_path)]))
    ends = np.cumsum([0, *(row["iterations"] for row in run.history())])[:-1]
    assert [seen[first][1] for first in ends] == [True, False, True, True]
    assert sum(fresh for _, fresh in seen) == 3
    # the rate falls before the second epoch
    assert [seen[first][0] for first in ends] == [
        pytest.approx([0.01, 0.1]), *[pytest.approx([0.001, 0.01])] * 3,
    ]  # fmt: skip
    for row in run.history():
        assert row["iterations"] == run.record["dataset"]["train"] // 16


def test_bucs_memory_is_empty_after_each_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    original = ExclusiveMemory.start_epoch

    def spied(self: ExclusiveMemory, *arguments: Any) -> None:
        original(self, *arguments)
        rows.append(int((self.memory[0].norm(dim=-1) > 0).sum()))

    monkeypatch.setattr(ExclusiveMemory, "start_epoch", spied)
    run_experiment(compose([*PUBLISHED, *places(tmp_path)]))
    assert rows[0] == rows[2] == rows[3] == 0 < rows[1]
