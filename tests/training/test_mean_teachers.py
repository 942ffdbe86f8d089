"""MMT and ICE from end to end: several networks and several copies of each batch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.core.errors import ConfigError, HarnessError
from harness.core.interfaces import Batch, UnlabelledSet
from harness.evaluation.evaluator import Evaluator
from harness.experiment.compose import compose
from harness.experiment.evaluate import evaluate_run
from harness.experiment.finished_networks import load_network
from harness.experiment.recipe import make_recipe
from harness.experiment.run import run_experiment
from harness.results.store import Run
from harness.training.trainer import Trainer
from tests.tiny import tiny_config

METHODS = ("mmt", "ice", "ice/aware")
NETWORKS = {
    "mmt": "mean teacher of the first student", "ice": "mean teacher", "ice_aware": "mean teacher",
}  # fmt: skip
#: statistics over parts of the batch, a blur, many cameras: all that draws random numbers
ALL_DRAWS = ("batch.samples_per_bn=4", "batch.sampler=camera", "images.blur=0.5", "train.epochs=3")


def _same(one: Run, other: Run) -> None:
    """Metrics, losses, labels and tested networks, bit for bit."""
    assert one.record["metrics"] == other.record["metrics"]
    for ours, theirs in zip(one.history(), other.history(), strict=True):
        assert (ours["loss"], ours["clusters"]) == (theirs["loss"], theirs["clusters"])
    a, b = _weights(one), _weights(other)
    assert a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def _weights(run: Run) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run.folder / "train.pt", weights_only=True)
    return state


@pytest.mark.parametrize(
    "method", ["mmt", pytest.param("ice", marks=pytest.mark.slow), "ice/aware"]
)
def test_resumed_or_repeated_the_numbers_are_the_same(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (f"method={method}", *ALL_DRAWS)
    whole = run_experiment(tiny_config(tmp_path / "whole", *settings))
    _same(whole, run_experiment(tiny_config(tmp_path / "again", *settings)))
    steps, original = [0], Trainer.train_step

    def interrupted(*arguments: Any) -> Tensor:
        steps[0] += 1
        if steps[0] == 6:  # the second of the third epoch
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "train_step", interrupted)
        run_experiment(tiny_config(tmp_path / "parts", *settings))
    _same(whole, run_experiment(tiny_config(tmp_path / "parts", *settings)))
    other = run_experiment(tiny_config(tmp_path / "other", *settings, "seed=1"))
    assert other.history()[0]["loss"] != whole.history()[0]["loss"]


@pytest.mark.parametrize("method", METHODS)
def test_the_record_is_of_the_tested_network(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher is saved and named in the record, and loads as the stage's backbone."""
    trainers: list[Trainer] = []
    step = Trainer.train_step

    def spied(self: Trainer, *arguments: Any) -> Tensor:
        trainers[:] = [self]
        return step(self, *arguments)

    monkeypatch.setattr(Trainer, "train_step", spied)
    run = run_experiment(tiny_config(tmp_path, f"method={method}"))
    name = NETWORKS[run.record["experiment"]["method"]]
    assert run.record["stages"]["train"]["network"] == name
    (trainer,) = trainers
    said, network = trainer.tested_network
    assert said == name
    student, saved = trainer.components.backbone.state_dict(), _weights(run)
    assert all(torch.equal(saved[key], value) for key, value in network.state_dict().items())
    assert any(not torch.equal(saved[key], value) for key, value in student.items())
    loaded = load_network(run, "train")
    assert loaded.views == trainer.components.backbone.views
    again = evaluate_run(str(run.folder), data_root=str(tmp_path / "data"), device="cpu")
    assert again["mAP"] == run.record["metrics"]["mAP"]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Batch]]:
    """All batches that steps see."""
    seen: list[Batch] = []
    step = Trainer.train_step

    def spied(self: Trainer, batch: Batch, frozen: bool) -> Tensor:
        seen.append(batch)
        return step(self, batch, frozen)

    monkeypatch.setattr(Trainer, "train_step", spied)
    yield seen


@pytest.mark.parametrize(("method", "plain"), [("mmt", False), ("ice", True)])
def test_copies_of_a_batch(method: str, plain: bool, tmp_path: Path, batches: list[Batch]) -> None:
    """A second copy has other draws, and does not change the first one."""
    run_experiment(tiny_config(tmp_path / "copies", f"method={method}"))
    with_copies = list(batches)
    batches.clear()
    run_experiment(tiny_config(tmp_path / "one", f"method={method}", "distiller=none"))
    for many, one in zip(with_copies[:2], batches[:2], strict=True):
        assert len(many.others) == 1 and not one.others
        assert (many.plain is not None) == plain and one.plain is None
        if method == "ice":  # its first labels come from the same network; MMT's from two
            assert torch.equal(many.images, one.images)
        assert not torch.equal(many.images, many.others[0])
        assert many.labels.shape == many.indices.shape == (len(many.images),)


def test_two_students_with_random_weights_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has weights of its own, and both are trained."""
    found: list[Trainer] = []

    def no_epochs(self: Trainer) -> Iterator[Any]:
        found.append(self)
        return iter(())

    monkeypatch.setattr(Trainer, "epochs", no_epochs)
    run = tiny_config(tmp_path, "method=mmt")
    with pytest.raises(IndexError):  # nothing was trained, so there is nothing to record
        run_experiment(run)
    (trainer,) = found
    distiller: Any = trainer.components.distiller
    pairs = zip(
        trainer.components.backbone.parameters(), distiller.student.parameters(), strict=True
    )
    assert any(not torch.equal(a, b) for a, b in pairs)
    trained = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    own = [*distiller.student.parameters(), *distiller.hard.parameters()]
    assert all(id(p) in trained for p in own if p.requires_grad)
    for teacher in distiller.teachers:
        assert not any(id(p) in trained for p in teacher.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_one_camera(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlabelled = Evaluator.unlabelled

    def of_one_camera(self: Evaluator, uses_cameras: bool) -> UnlabelledSet:
        data = unlabelled(self, uses_cameras)
        assert data.cameras is not None
        return replace(data, cameras=torch.zeros_like(data.cameras))

    monkeypatch.setattr(Evaluator, "unlabelled", of_one_camera)
    run = run_experiment(tiny_config(tmp_path, f"method={method}", "batch.sampler=camera"))
    assert 0 < run.record["metrics"]["mAP"] <= 100


@pytest.mark.parametrize("method", METHODS)
def test_all_outliers_are_explained(method: str, tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no clusters"):
        run_experiment(tiny_config(tmp_path, f"method={method}", "labeler.min_samples=60"))


@pytest.mark.parametrize(
    "batch",
    [("batch.identities=2", "batch.images=1"), ("batch.identities=1", "batch.images=7")],
    ids=["one image each", "one identity"],
)
@pytest.mark.parametrize("method", METHODS)
def test_odd_batches(method: str, batch: tuple[str, ...], tmp_path: Path) -> None:
    """Without a second image, or without a negative, losses are finite."""
    run = run_experiment(tiny_config(tmp_path, f"method={method}", *batch))
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in run.history())


#: other methods' parts with these teachers
CROSSED = {
    "cluster contrast with instances": ("method=cluster_contrast", "distiller=instance_teacher"),
    "instances of three views": (
        "method=cluster_contrast", "distiller=instance_teacher",
        "backbone.views=[global,upper,lower]",
    ),
    "mutual teachers of k-means": ("method=mmt", "labeler=kmeans", "labeler.clusters=8"),
    "mutual teachers of three views": (
        "method=strong_baseline", "distiller=mutual_teachers", "objective.before_neck=false",
        "backbone.views=[global,upper,lower]",
    ),
    "MMT's students without teachers": ("method=mmt", "distiller=none"),
    "a warm-up by the average": ("method=ice", "train.warmup_epochs=1", "distiller.ramp=true"),
    "averages with the students' statistics": ("method=mmt", "distiller.batch_norm=eval"),
}  # fmt: skip


@pytest.mark.parametrize("case", CROSSED)
def test_crossings(case: str, tmp_path: Path) -> None:
    run = run_experiment(tiny_config(tmp_path, *CROSSED[case]))
    assert 0 < run.record["metrics"]["mAP"] <= 100


REFUSED = {
    "no scores": (
        ("method=mmt", "objective=cluster_memory", "backbone.views=[global]"),
        "ClusterMemory has no classifier", "objective=softmax_triplet",
    ),
    "no view before the neck": (
        ("method=mmt", "backbone.views=[global]"), "needs the view 'pooled'",
        r"backbone.views=\[global,pooled\]",
    ),
    "a view before the neck for nothing": (
        ("method=cluster_contrast", "backbone.views=[global,pooled]"),
        "ClusterMemory does not use 'pooled'", r"backbone.views=\[global\]",
    ),
    "a view before the neck for a part": (
        ("method=mmt", "labeler.part_weight=0.1"), "cannot be combined with the view 'pooled'",
        "part_weight=0",
    ),
    "a view before the neck among those of k-means": (
        ("method=mmt", "labeler=kmeans", "labeler.views=mean"),
        "cannot be combined with the view 'pooled'", "views=global",
    ),
    "a view before the neck for a part of the teacher": (
        ("method=mmt", "distiller=mean_teacher", "backbone.views=[global,upper,lower,pooled]",
         "distiller.part_weight=0.2", "objective.part_weight=0.2"),
        "distiller.part_weight=0.2 cannot be combined with the view 'pooled'", "part_weight=0",
    ),
    "cameras in ICE's loss": (
        ("method=ice/aware", "method.uses_cameras=false"), "ProxyContrast needs cameras",
        "uses_cameras=true",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_at_composition(case: str) -> None:
    overrides, cause, hint = REFUSED[case]
    with pytest.raises(ConfigError, match=cause) as refusal:
        make_recipe(compose([*overrides, "dataset=synthetic"]))
    assert re.search(hint, refusal.value.hint)
