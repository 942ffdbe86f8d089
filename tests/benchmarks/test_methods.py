"""`harness bench methods`: amounts are those of a run, costs are ratios within a round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness.benchmarks import methods
from harness.benchmarks.stage_costs import (
    Amounts,
    Features,
    Speeds,
    StageCosts,
    counted_images,
)
from harness.benchmarks.timing import Bounds, error_of_median, uncertain
from harness.components.objectives import CameraProxies
from harness.core.errors import ConfigError
from harness.core.progress import Reporter
from harness.experiment.plan import make_plan
from harness.experiment.run import run_experiment
from harness.results.measured_costs import cost_key
from harness.training.extraction import extract
from tests.conftest import Command
from tests.tiny import TINY, TINY_VIT, has_own_backbone, own_images, tiny_config

CPU = torch.device("cpu")
#: without the options that `bench` has as flags
SETTINGS = [word for word in TINY if not word.startswith("device=")]

SHORT = ("--seconds", "0.01", "--max-load", "1", "--max-error", "99", "--retries", "0")


def stages_of(folder: Path, *overrides: str) -> list[StageCosts]:
    settings = SETTINGS
    if any(has_own_backbone(word.removeprefix("method=")) for word in overrides):
        settings = [word for word in SETTINGS if not word.startswith("backbone.")] + [*TINY_VIT]
    names, shared = methods.split_methods([*settings, f"data.root={folder}/data", *overrides])
    return methods.make_stages(names, shared, CPU, 1e-9, Reporter())


def test_costs_beside_the_reference(command: Command, tmp_path: Path) -> None:
    arguments = ("bench", "methods", *SETTINGS, f"data.root={tmp_path}/data", "--device", "cpu",
                 "method=mskd,direct_transfer", "--repeats", "2", *SHORT)  # fmt: skip
    answer = command(*arguments, "--json", "--output", "timings")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    (path,) = (tmp_path / "timings").glob("methods-*.json")
    assert json.loads(path.read_text()) == found
    assert list(found["methods"]) == ["cluster_contrast", "mskd", "direct_transfer"]
    assert found["setting"]["reference"] == "cluster_contrast"
    assert found["setting"]["protocol"] == "debug" and found["setting"]["batch"] == 16
    assert "views" not in found["setting"], "the methods differ in them"

    reference, mskd, transfer = found["methods"].values()
    assert reference["cost"] == 1 and reference["cost_rounds"] == [1, 1]
    for one in (mskd, transfer):
        pairs = zip(one["rounds"], reference["rounds"], strict=True)
        assert one["cost_rounds"] == pytest.approx([a / b for a, b in pairs], rel=1e-3)
    teacher, student = mskd["stages"].values()
    assert (teacher["forward_passes"], student["forward_passes"]) == (1, 2)
    assert teacher["trained_parameters"] == student["trained_parameters"] > 0
    assert student["views"] == ["global", "upper", "lower"]
    assert student["memory_mib"]["host_above"] >= 0
    assert set(student["ratios"]) == {"step_seconds", "extract_seconds", "label_seconds",
                                      "test_seconds", "epoch_seconds"}  # fmt: skip
    (untrained,) = transfer["stages"].values()
    assert untrained["step_seconds"] == 0 and untrained["hours"] > 0
    assert "mskd student labels" in found["candidates"]
    assert "direct_transfer initial train" not in found["candidates"]

    seconds = student["epoch_seconds"] * 3 + student["test_seconds"] * 2
    assert student["hours"] == pytest.approx(seconds / 3600, rel=0.3)  # medians of two rounds
    assert sum(student["hours_by_phase"].values()) == pytest.approx(student["hours"], rel=0.3)
    assert student["images_per_second"] == pytest.approx(16 / student["step_seconds"], rel=0.01)
    assert "images_per_second" not in untrained


def test_methods_without_work_are_left_out(command: Command, tmp_path: Path) -> None:
    """A method that does not train has nothing to do without a test part."""
    others = ("method=", "device=", "store=", "labeler.")
    words = [word for word in own_images(tmp_path) if not word.startswith(others)]
    csv = tmp_path / "people" / "list.csv"
    rows = csv.read_text().splitlines()
    csv.write_text("\n".join([rows[0], *(row for row in rows if row.endswith(",train"))]))
    answer = command("bench", "methods", "method=direct_transfer", *words, "--device", "cpu",
                     "--repeats", "2", *SHORT, "--json")  # fmt: skip
    assert answer.status == 0, answer.err
    assert list(json.loads(answer.out)["methods"]) == ["cluster_contrast"]
    assert "direct_transfer is left out: it does not train" in answer.err


def test_table(command: Command, tmp_path: Path) -> None:
    answer = command("bench", "methods", *SETTINGS, f"data.root={tmp_path}/data", "--device", "cpu",
                     "method=cluster_contrast", "--repeats", "1", *SHORT)  # fmt: skip
    assert answer.status == 0, answer.err
    head, row = (line.split() for line in answer.out.splitlines()[3:6:2])
    assert head == ["Method", "Step", "Epoch", "Passes", "MiB", "Hours", "Cost", "±"]
    assert row[0] == "cluster_contrast" and row[-2] == "1.00", (
        "100 columns: without a stage's parts"
    )
    assert "Cost: hours over those of cluster_contrast" in answer.out


def test_a_source_is_the_data_set_itself(tmp_path: Path) -> None:
    """Methods that need a labeled source are timed on the same images: two domains in a step."""
    (joint,) = stages_of(tmp_path, "method=spcl/uda")
    joint.candidates["train"].run()
    assert joint.facts["forward_passes"] == 2
    assert joint.amounts.extracted == 2 * len(joint.images.decoded), "each domain, once"
    given = tiny_config(tmp_path, "method=spcl/uda")
    card = make_plan(given, "fp32").card
    assert card["setting"] == "UDA, source synthetic"
    assert joint.in_tables == {"name": "spcl_uda", "card": cost_key(card)}
    assert cost_key(card) != cost_key(card | {"setting": "supervised"})
    pretraining, *_ = stages_of(tmp_path, "method=mmt/uda")
    pretraining.candidates["train"].run()
    assert pretraining.facts["forward_passes"] == 1


@pytest.mark.parametrize("method", ["mskd", "spcl", "mmt", "buc", "dcmip"])
def test_amounts_are_those_of_a_run(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (f"method={method}", "train.epochs=3", "evaluation.every=2")
    found = {}
    for stage in stages_of(tmp_path, *overrides):
        stage.candidates["train"].run()
        found[stage.name] = stage.amounts

    extracted, labelings = [0], [0]
    label = type(stage.trainer.components.labeler).label

    def counted_extract(network: object, images: torch.Tensor, *rest: object, **more: object):  # type: ignore[no-untyped-def]
        extracted[0] += len(images)
        return extract(network, images, *rest, **more)  # type: ignore[arg-type]

    def counted_label(self, *rest):  # type: ignore[no-untyped-def]
        labelings[0] += 1
        return label(self, *rest)

    monkeypatch.setattr("harness.training.trainer.extract", counted_extract)
    monkeypatch.setattr(type(stage.trainer.components.labeler), "label", counted_label)
    run = run_experiment(tiny_config(tmp_path, *overrides))
    history = run.history()
    assert cost_key(run.record["protocol"]) == stage.in_tables["card"]
    assert run.record["experiment"]["method"] == stage.in_tables["name"]
    for name, amounts in found.items():
        rows = [row for row in history if row["stage"] == name]
        assert amounts.epochs == len(rows)
        assert amounts.steps == sum(row["iterations"] for row in rows)
        assert amounts.tests == sum("mAP" in row for row in rows)
    assert sum(a.extracted for a in found.values()) == extracted[0]
    assert sum(a.labelings for a in found.values()) == labelings[0]


def test_seconds_of_a_schedule() -> None:
    speeds = Speeds(step=2.0, image=0.01, labels=30.0, rank=5.0, start=1.0)
    amounts = Amounts(epochs=4, steps=100, extracted=1000, labelings=2, tests=3)
    expected = {"extract": 1000 * 0.01, "label": 2 * 30, "train": 4 * 1 + 100 * 2,
                "test": 3 * (500 * 0.01 + 5)}  # fmt: skip
    assert amounts.seconds(speeds, 500) == pytest.approx(expected)


def test_the_error_of_a_median() -> None:
    # of 20 values the 6th and the 15th enclose the median with a probability of 95.9 %
    assert error_of_median([*range(1, 21)]) == pytest.approx((15 - 6) / 2 / 10.5)
    assert error_of_median([1000, *range(2, 21), 1]) == pytest.approx((16 - 6) / 2 / 11)
    assert error_of_median([1, 2, 3, 4, 5, 6]) == pytest.approx((6 - 1) / 2 / 3.5)
    assert error_of_median([1.0, 2.0, 9.0]) == 2, "the range of few values"
    assert error_of_median([2.0] * 4) == 0
    assert error_of_median([2.0]) == 1, "nothing is known of a single round's error"
    errors = {"a": 0.2, "b": 0.01}
    assert uncertain("cost", errors, Bounds()) == ["a: the cost is uncertain by ± 20%"]


def test_terms_that_begin_later_are_timed(tmp_path: Path) -> None:
    (stage,) = stages_of(tmp_path, "method=cap", "train.epochs=12")
    stage.candidates["train"].run()
    objective = stage.trainer.components.objective
    assert isinstance(objective, CameraProxies) and objective.has_inter_camera
    (stage,) = stages_of(tmp_path, "method=cap", "train.epochs=4")
    stage.candidates["train"].run()
    assert not stage.trainer.components.objective.has_inter_camera


def test_labels_are_made_from_the_same_state_in_each_round(tmp_path: Path) -> None:
    """BUC merges the clusters of its last labels; its first call merges nothing."""
    (stage,) = stages_of(tmp_path, "method=buc")
    candidate = stage.candidates["labels"]
    made = []
    for _ in range(2):
        candidate.run()
        made.append(stage.trainer.components.labeler.state_dict()["labels"])
    assert torch.equal(*made) and made[0].max() + 1 < len(made[0])


def test_forward_passes_are_counted_by_images(tmp_path: Path) -> None:
    (stage,) = stages_of(tmp_path, "method=direct_transfer")
    with counted_images([stage.backbone]) as passed:
        stage.backbone(torch.zeros(3, 3, 32, 16))
        stage.backbone(torch.zeros(2, 3, 32, 16))
    stage.backbone(torch.zeros(4, 3, 32, 16))
    assert passed == [5]


def test_images_are_shared(tmp_path: Path) -> None:
    stages = stages_of(tmp_path, "method=mskd,buc")
    assert [stage.name for stage in stages] == ["teacher", "student", "train"]
    assert len({id(stage.evaluator) for stage in stages}) == 1
    images = stages[0].images
    assert isinstance(images, Features)
    network = stages[0].backbone
    assert images.features(network) is images.features(stages[1].backbone)
    assert images.features(network).shape == (len(images.decoded), 3, network.dim)


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("method=mskd", ["mskd"]),
        ("method=mskd,mskd/no_views", ["mskd", "mskd/no_views"]),
        ("method=mskd,mskd", ["mskd"]),
        ("method=glob(m*)", ["mmt", "mskd"]),
    ],
)
def test_methods_are_chosen_as_in_a_sweep(word: str, names: list[str]) -> None:
    chosen, others = methods.split_methods(["seed=1", word])
    assert sorted(chosen) == names and others == ["seed=1"]


def test_all_methods_by_default() -> None:
    chosen, _ = methods.split_methods([])
    assert {"mskd", "cluster_contrast", "direct_transfer"} <= set(chosen)
    assert not any("/" in name for name in chosen), "variants are named one by one"


@pytest.mark.parametrize(
    ("word", "problem"),
    [("method=mksd", "no method 'mksd'"), ("method=glob(x*)", "no method like"),
     ("method=mskd,", "no method ''|cannot be read")],
)  # fmt: skip
def test_unknown_methods_are_refused(word: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        methods.split_methods([word])


@pytest.mark.parametrize(
    ("reference", "problem"), [("clustr", "is not a method"), ("direct_transfer", "does not train")]
)
def test_a_reference_has_to_train(reference: str, problem: str, tmp_path: Path) -> None:
    overrides = [*SETTINGS, f"data.root={tmp_path}/data", "method=direct_transfer"]
    with pytest.raises(ConfigError, match=problem):
        methods.measure(overrides, CPU, reference)
