"""The training loop: components that outlive epochs, resuming, and which features are read."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.components.distillers import MeanTeacher
from harness.components.labelers import JaccardDBSCAN
from harness.components.objectives import HybridMemory
from harness.core.distributed import processes
from harness.core.interfaces import Backbone, PseudoLabels
from harness.core.load import Load, LoadMeter
from harness.experiment.run import run_experiment
from harness.results.store import Run
from harness.training.extraction import extract
from harness.training.trainer import Trainer
from tests.tiny import tiny_config

#: Cluster Contrast's labels with another objective or teacher
CROSSED = {
    "hybrid memory": ("objective=hybrid_memory",),
    "exclusive": ("objective=exclusive",),
    "classifier": ("objective=softmax_triplet",),
    "mean teacher": ("distiller=mean_teacher",),
    "mean teacher of warm-up": (
        "distiller=mean_teacher", "train.warmup_epochs=1", "objective=hybrid_memory",
    ),
    "SGD": (
        "optimizer.name=sgd", "optimizer.nesterov=true", "optimizer.backbone_lr_mult=0.1",
        "optimizer.warmup=2", "optimizer.lr=0.01",
    ),
    "instance proxies": ("distiller=instance_proxies",),
    "renewed": ("optimizer.reset_with_labels=true",),
    "labels that last": ("train.label_every=3",),
    "merged labels that last": (
        "labeler=bottom_up", "labeler.share=0.3", "objective=exclusive",
        "train.label_every=[1,2]", "batch.sampler=random", "train.iterations=auto",
        "optimizer.reset_with_labels=true", "optimizer.name=sgd", "optimizer.lr=0.01",
    ),
}  # fmt: skip


def _weights(run: Run) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run.folder / "train.pt", weights_only=True)
    return state


#: what lasts beyond an epoch in the memory, the classifier, the optimizer and the labels
SOONER = ("mean teacher", "classifier", "renewed", "merged labels that last")


@pytest.mark.parametrize(
    "case", [c if c in SOONER else pytest.param(c, marks=pytest.mark.slow) for c in CROSSED]
)
def test_interrupted_and_resumed(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memories, classifiers and averages that outlive an epoch are resumed."""
    overrides = ("method=cluster_contrast", *CROSSED[case], "train.epochs=3")
    whole = run_experiment(tiny_config(tmp_path / "whole", *overrides))
    steps = [0]
    last = sum(row["iterations"] for row in whole.history())  # the run's last step, in epoch 2
    original = Trainer.train_step

    def interrupted(*arguments: Any) -> Tensor:
        steps[0] += 1
        if steps[0] == last:
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(tiny_config(tmp_path / "parts", *overrides))
    resumed = run_experiment(tiny_config(tmp_path / "parts", *overrides))
    assert steps[0] == last, "it resumed instead of starting again"
    assert resumed.record["metrics"] == whole.record["metrics"]
    for ours, theirs in zip(resumed.history(), whole.history(), strict=True):
        assert (ours["loss"], ours["clusters"]) == (theirs["loss"], theirs["clusters"])
    a, b = _weights(whole), _weights(resumed)
    assert a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def test_objectives_are_told_the_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """(e I + s − 1) / (I E) before step s of epoch e, 0 in warm-up epochs, and so when resumed."""
    told: list[float] = []
    stop = False
    original = Trainer.train_step

    def spied(self: Trainer, *arguments: Any) -> Tensor:
        told.append(self.components.objective.progress)
        if stop and told[-1] == 5 / 6:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, "train_step", spied)
    case = ("method=cluster_contrast", *CROSSED["mean teacher of warm-up"], "train.epochs=3")
    run_experiment(tiny_config(tmp_path / "whole", *case))
    assert told == [0] * 4 + [step / 6 for step in range(6)]
    told.clear()
    stop = True
    with pytest.raises(KeyboardInterrupt):
        run_experiment(tiny_config(tmp_path / "parts", *case))
    told.clear()
    stop = False
    run_experiment(tiny_config(tmp_path / "parts", *case))
    assert told == [4 / 6, 5 / 6]


@pytest.mark.parametrize(("others", "threads", "told"), [(0.4, 2, True), (0.4, 1, False),
                                                         (0.1, 2, False)])  # fmt: skip
def test_a_busy_processor_is_recorded_and_told(
    others: float, threads: int, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("harness.core.errors._noticed", set())
    monkeypatch.setattr(LoadMeter, "read", lambda self: Load(others, 0.05))
    monkeypatch.setattr(processes, "cores", lambda: 2)
    run = run_experiment(
        tiny_config(tmp_path, "method=cluster_contrast", "train.epochs=1", f"threads={threads}")
    )
    assert run.history()[0]["cpu_share"] == pytest.approx(0.95 - others)
    assert run.record["stages"]["train"]["cpu_share"] == pytest.approx(0.95 - others)
    notice = "other work takes more than 25% of the processor; fewer threads can be faster"
    assert (notice in capsys.readouterr().err) == told


def test_a_reset_optimizer_has_no_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: dict[str, list[int]] = {}
    original = Trainer.train_step
    case = ""

    def spied(self: Trainer, *arguments: Any) -> Tensor:
        loss = original(self, *arguments)
        steps.setdefault(case, []).append(
            max(int(s["step"]) for s in self.optimizer.state.values())
        )
        return loss

    monkeypatch.setattr(Trainer, "train_step", spied)
    for case in ("false", "true"):
        run_experiment(
            tiny_config(
                tmp_path / case, "method=cluster_contrast", f"optimizer.reset_with_labels={case}"
            )
        )
    assert steps == {"false": [1, 2, 3, 4], "true": [1, 2, 1, 2]}


def test_labels_come_from_the_memory_after_the_first_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SpCL extracts before its first epoch, and never again."""
    extracted, labelled, memories = [], [], []

    def extracting(*arguments: Any, **options: Any) -> Tensor:
        extracted.append(extract(*arguments, **options))
        return extracted[-1]

    def label(self: JaccardDBSCAN, features: Tensor, *cameras: Any) -> PseudoLabels:
        labelled.append(features.clone())
        return label_as_ever(self, features, *cameras)

    def start_epoch(self: HybridMemory, *arguments: Any) -> None:
        memories.append(self.memory.clone())
        start_as_ever(self, *arguments)

    label_as_ever, start_as_ever = JaccardDBSCAN.label, HybridMemory.start_epoch
    monkeypatch.setattr("harness.training.trainer.extract", extracting)
    monkeypatch.setattr(JaccardDBSCAN, "label", label)
    monkeypatch.setattr(HybridMemory, "start_epoch", start_epoch)
    case = CROSSED["hybrid memory"]
    run = run_experiment(tiny_config(tmp_path, "method=cluster_contrast", *case, "train.epochs=3"))
    assert len(extracted) == 1 and len(labelled) == 3
    assert torch.equal(labelled[0], extracted[0])
    assert torch.equal(labelled[1], memories[1]) and torch.equal(labelled[2], memories[2])
    assert not torch.equal(labelled[1], labelled[2])
    assert ["seconds_extract" in row for row in run.history()] == [True, False, False]


def test_nothing_is_extracted_that_nobody_reads(tmp_path: Path) -> None:
    """Kept labels, an objective without features, and a teacher that takes no labels."""
    run = run_experiment(
        tiny_config(
            tmp_path, "method=cluster_contrast", "objective=exclusive", "distiller=mean_teacher",
            "labeler=bottom_up", "labeler.share=0.3", "batch.sampler=random",
            "train.label_every=2", "train.epochs=4",
        )
    )  # fmt: skip
    extracts = ["seconds_extract" in row for row in run.history()]
    assert extracts == [True, False, True, False]


def test_features_are_freed_before_the_iterations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []
    step = Trainer.train_step

    def extracting(*arguments: Any, **options: Any) -> Tensor:
        features = extract(*arguments, **options)
        made.append(weakref.ref(features))
        return features

    def spied(*arguments: Any) -> Tensor:
        alive.append(any(reference() is not None for reference in made))
        return step(*arguments)

    monkeypatch.setattr("harness.training.trainer.extract", extracting)
    monkeypatch.setattr(Trainer, "train_step", spied)
    run_experiment(tiny_config(tmp_path, "method=cluster_contrast"))
    assert made and alive and not any(alive)


def test_mskd_with_a_mean_teacher_needs_no_teacher_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ablation of the offline teacher: as many epochs, the same batches, another teacher."""
    taught: list[MeanTeacher] = []
    step = MeanTeacher.step

    def spied(self: MeanTeacher, *arguments: Any) -> None:
        step(self, *arguments)
        taught.append(self)

    monkeypatch.setattr(MeanTeacher, "step", spied)
    run = run_experiment(tiny_config(tmp_path, "method=mskd", "distiller=mean_teacher"))
    assert list(run.record["stages"]) == ["student"]
    assert [row["epoch"] for row in run.history()] == [-1, 0, 1]
    assert len(taught) == 2 * 2 + 2 + 2 == taught[-1].steps
    assert all(teacher is taught[0] for teacher in taught)
    student = torch.load(run.folder / "student.pt", weights_only=True)
    average = dict(taught[0].teacher.named_parameters())
    assert average.keys() < student.keys()
    assert any(not torch.equal(average[name], student[name]) for name in average)


@pytest.mark.parametrize("case", ["other", "same", "kept"])
def test_features_of_the_network_that_relabels(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Distiller.relabeled_by`: extracted beside the labeling ones, unless these are the same."""
    by: list[tuple[Backbone, Tensor]] = []
    labelled: list[Tensor] = []
    relabelled: list[Tensor] = []
    label_as_ever = JaccardDBSCAN.label

    def extracting(network: Backbone, *arguments: Any, **options: Any) -> Tensor:
        by.append((network, extract(network, *arguments, **options)))
        return by[-1][1].clone()

    def label(self: JaccardDBSCAN, features: Tensor, *cameras: Any) -> PseudoLabels:
        labelled.append(features.clone())
        return label_as_ever(self, features, *cameras)

    def relabel(self: MeanTeacher, features: Tensor, *arguments: Any) -> None:
        relabelled.append(features.clone())

    monkeypatch.setattr("harness.training.trainer.extract", extracting)
    monkeypatch.setattr(JaccardDBSCAN, "label", label)
    monkeypatch.setattr(MeanTeacher, "relabel", relabel)
    monkeypatch.setattr(MeanTeacher, "relabeled_by", property(lambda self: self.teacher))
    settings = ["method=cluster_contrast", "distiller=mean_teacher", "distiller.ramp=false"]
    if case == "same":
        monkeypatch.setattr(MeanTeacher, "labeled_by", property(lambda self: (self.teacher,)))
    if case == "kept":
        settings.append("objective=hybrid_memory")
    run = run_experiment(tiny_config(tmp_path, *settings))
    first = {"other": 2, "same": 1, "kept": 2}[case]
    later = {"other": 2, "same": 1, "kept": 1}[case]
    assert len(by) == first + later
    assert len({id(network) for network, _ in by}) == (1 if case == "same" else 2)
    for epoch, last in enumerate((first - 1, first + later - 1)):
        assert torch.equal(relabelled[epoch], by[last][1])
    assert torch.equal(labelled[0], by[0][1])
    if case != "same":
        assert not torch.equal(labelled[1], relabelled[1]), "the teacher lags behind"
    images = run.record["dataset"]["train"]
    for row, count in zip(run.history(), (first, later), strict=True):
        speed = count * images / row["seconds_extract"]
        assert row["extract_images_per_second"] == pytest.approx(speed, rel=0.01)
    seconds = sum(row["seconds_extract"] for row in run.history())
    recorded = run.record["stages"]["train"]["seconds"]["extract"]
    assert recorded == pytest.approx(seconds, abs=0.01)
