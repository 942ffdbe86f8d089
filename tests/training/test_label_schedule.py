"""The label schedule, and a training loop that follows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.components.labelers import BottomUp, JaccardDBSCAN
from harness.core.errors import ConfigError
from harness.core.interfaces import Objective
from harness.experiment.compose import compose
from harness.experiment.plan import make_plan
from harness.experiment.recipe import make_recipe
from harness.experiment.run import run_experiment
from harness.training.extraction import extract
from harness.training.label_schedule import label_schedule
from tests.tiny import tiny_config


def labeled(label_every: Any, epochs: int) -> dict[int, int]:
    """Epoch → how often labels are made before it."""
    return {epoch: n for epoch, n in enumerate(label_schedule(label_every, epochs)) if n}


def test_every_so_many_epochs() -> None:
    assert label_schedule(1, 5) == label_schedule([1], 5) == [1] * 5
    assert label_schedule(2, 5) == [1, 0, 1, 0, 1]
    assert label_schedule(9, 5) == [1, 0, 0, 0, 0]


def test_the_schedule_of_buc() -> None:
    """20 epochs, then 18 times 2."""
    theirs = {0: 1} | dict.fromkeys(range(20, 56, 2), 1)
    assert labeled([20, 2], 56) == theirs
    assert labeled([20 / 56, 2 / 56], 56) == theirs
    assert labeled([3, 1, 2], 8) == {0: 1, 3: 1, 4: 1, 6: 1}


@given(first=st.floats(0.001, 0.999), later=st.floats(0.02, 0.999), epochs=st.integers(1, 60))
def test_short_trainings_label_as_often_as_long_ones(
    first: float, later: float, epochs: int
) -> None:
    found = label_schedule([first, later], epochs)
    assert len(found) == epochs and found[0] >= 1
    # as often as in a long training, except for ends that are rounded to the last epoch
    often = sum(label_schedule([first, later], 1000))
    assert abs(sum(found) - often) <= 1 / (2 * epochs * later) + 1


# --------------------------------------------------------------------------------- composition

REFUSED: dict[str, tuple[str, str]] = {
    "never": ("train.label_every=0", "train.label_every=0 must be a whole number of epochs"),
    "epochs and a half": ("train.label_every=1.5", "must be a whole number of epochs"),
    "backwards": ("train.label_every=-1", "must be a whole number of epochs"),
    "no lengths": ("train.label_every=[]", "must be a whole number of epochs"),
    "in words": ("train.label_every=often", "must be a whole number of epochs"),
    "one of them": ("train.label_every=[2,0]", "must be a whole number of epochs"),
    "too small a share": ("train.label_every=1e-9", "must be a whole number of epochs"),
    "iterations in words": ("train.iterations=many", "train.iterations=many must be a whole"),
    "epochs alone": ("train.epochs=auto", "train.epochs=auto must be a whole number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_cause(case: str) -> None:
    override, cause = REFUSED[case]
    with pytest.raises(ConfigError) as refusal:
        make_recipe(compose(["method=cluster_contrast", "dataset=synthetic", override]))
    assert cause in refusal.value.cause


def test_schedules_that_never_merge_are_refused() -> None:
    usual = ["method=cluster_contrast", "dataset=synthetic", "labeler=bottom_up"]
    with pytest.raises(ConfigError, match="makes labels once in 16 epochs, but BottomUp needs 2"):
        make_recipe(compose([*usual, "train.label_every=[20,2]"]))
    make_recipe(compose([*usual, "train.label_every=[15,2]"]))
    make_recipe(compose([*usual, "train.epochs=1"]))  # no schedule could help


def test_auto_iterations_are_on_the_card_and_label_schedules_are_not() -> None:
    usual = compose(["method=cluster_contrast", "dataset=synthetic"])
    auto, rare, random = (
        compose(["method=cluster_contrast", "dataset=synthetic", override])
        for override in ("train.iterations=auto", "train.label_every=2", "batch.sampler=random")
    )
    cards = [make_plan(config, "fp32").card for config in (usual, auto, rare, random)]
    assert cards[0]["hash"] == cards[2]["hash"]
    assert len({card["hash"] for card in cards}) == 3
    assert cards[1]["schedule"] == "16 epochs x labelled images / batch size iterations a stage"
    assert cards[3]["batch"] == "16 x 4, random sampler"


# ------------------------------------------------------------------------------------ training


class Spy:
    """Calls in order: E extraction, L labels, S start of an epoch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, objective: str) -> None:
        from harness.components import objectives

        self.calls: list[str] = []
        self.features: list[Tensor] = []
        kind: type[Objective] = getattr(objectives, objective)
        label_by = [(k, k.label) for k in (JaccardDBSCAN, BottomUp)]
        start = kind.start_epoch

        def extracting(*arguments: Any, **options: Any) -> Tensor:
            self.calls.append("E")
            return extract(*arguments, **options)

        def starting(objective: Objective, features: Tensor, *rest: Any) -> None:
            self.calls.append("S")
            self.features.append(features.clone())
            start(objective, features, *rest)

        monkeypatch.setattr("harness.training.trainer.extract", extracting)
        monkeypatch.setattr(kind, "start_epoch", starting)
        for labeler, original in label_by:

            def label(labeler: Any, *arguments: Any, original: Any = original) -> Any:
                self.calls.append("L")
                return original(labeler, *arguments)

            monkeypatch.setattr(labeler, "label", label)


def test_labels_persist_and_memories_are_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch, "ClusterMemory")
    run = run_experiment(
        tiny_config(tmp_path, "method=cluster_contrast", "train.label_every=[2,1]",
                    "train.epochs=4")
    )  # fmt: skip
    assert "".join(spy.calls) == "ELS" + "ES" + "ELS" + "ELS"
    assert not torch.equal(spy.features[0], spy.features[1])
    rows = run.history()
    assert rows[0]["clusters"] == rows[1]["clusters"] and rows[0]["ari"] == rows[1]["ari"]
    assert ["seconds_label" in row for row in rows] == [True, False, True, True]


def test_features_that_nothing_reads_are_not_extracted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy(monkeypatch, "ExclusiveMemory")
    run = run_experiment(
        tiny_config(tmp_path, "method=cluster_contrast", "labeler=bottom_up", "labeler.share=0.2",
                    "objective=exclusive", "train.label_every=[2,0.25]", "train.epochs=4")
    )  # fmt: skip
    assert "".join(spy.calls) == "ELS" + "S" + "ELS" + "ELS"
    assert [len(features) > 0 for features in spy.features] == [True, False, True, True]
    clusters = [row["clusters"] for row in run.history()]
    assert clusters[0] == clusters[1] > clusters[2] > clusters[3]


def test_several_labelings_at_once(tmp_path: Path) -> None:
    """A short training merges as many clusters as a long one."""
    ends = []
    for place, label_every in (("few", "[0.5,0.125]"), ("many", "1")):
        run = run_experiment(
            tiny_config(tmp_path / place, "method=cluster_contrast", "labeler=bottom_up",
                        "labeler.share=0.1", "objective=exclusive", "train.epochs=3",
                        f"train.label_every={label_every}")
        )  # fmt: skip
        ends.append([row["clusters"] for row in run.history()])
    images, merges = ends[1][0], ends[1][0] - ends[1][1]
    assert ends[1] == [images, images - merges, images - 2 * merges]
    made_by_few = label_schedule([0.5, 0.125], 3)
    assert ends[0][-1] == images - (sum(made_by_few) - 1) * merges and sum(made_by_few) > 3


def test_auto_iterations_are_the_batches_that_labeled_images_fill(tmp_path: Path) -> None:
    run = run_experiment(tiny_config(tmp_path, "method=cluster_contrast", "train.iterations=auto"))
    images = run.record["dataset"]["train"]
    for row in run.history():
        assert row["iterations"] == (images - row["outliers"]) // 16 > 2
