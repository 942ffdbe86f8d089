"""The space: how it is read and drawn from, and what is refused before the first trial."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from harness.core import plugins
from harness.core.errors import ConfigError
from harness.experiment.compose import compose as compose_run
from harness.experiment.registration import register
from harness.experiment.search.plan import _configure, check_space, defaults, make_plan
from harness.experiment.search.space import Space, SpaceError, parse
from tests.experiment.search.small import small
from tests.tiny import tiny

CONDITIONAL = {
    "objective": {
        "hard": {"choices": [False, True]},
        "momentum": {"low": 0.0, "high": 0.5, "step": 0.25, "when": {"objective.hard": False}},
    },
    "labeler": {"min_samples": {"low": 2, "high": 3, "when": {"objective.momentum": [0.0, 0.5]}}},
}


def test_conditions_order_the_keys_and_are_met() -> None:
    space = parse(CONDITIONAL)
    assert [p.key for p in space] == [
        "objective.hard", "objective.momentum", "labeler.min_samples",
    ]  # fmt: skip
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        trial = study.ask()
        values = space.draw(trial)
        assert ("objective.momentum" in values) == (values["objective.hard"] is False)
        deep = values.get("objective.momentum") in (0.0, 0.5)
        assert ("labeler.min_samples" in values) == deep
        assert trial.params == values
        study.tell(trial, 0.0)


def test_a_grid_has_each_combination_once() -> None:
    space = parse(CONDITIONAL)
    whole = Space(
        tuple(p.model_copy(update={"whole": p.key == "labeler.min_samples"}) for p in space)
    )
    found = whole.combinations()
    assert {"objective.hard": True} in found
    assert len(found) == 1 + 2 * 2 + 1  # hard · momentum 0 and 0.5 by two numbers · 0.25 alone
    with pytest.raises(ConfigError, match="finitely many"):
        space.combinations()


def test_a_key_may_be_called_as_a_field_is() -> None:
    space = parse(
        {"optimizer": {"step": {"low": 5, "high": 20}, "lr": {"low": 1e-4, "high": 1e-2}}}
    )
    assert [p.key for p in space] == ["optimizer.step", "optimizer.lr"]


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        ({"low": 0.7, "high": 0.3}, "empty range"),
        ({"low": 0.3, "high": 0.3}, "empty range"),
        ({"low": -1.0, "high": 1.0, "log": True}, "low > 0 must hold for log=True"),
        ({"low": 0.0, "high": 1.0, "log": True}, "low > 0 must hold for log=True"),
        ({"low": 0.1, "high": 1.0, "log": True, "step": 0.1}, "step is not supported when log"),
        ({"low": 0.1, "high": 1.0, "step": 0}, "step=0 must be a finite number above 0"),
        ({"low": 0.1, "high": 1.0, "step": float("nan")}, "step=nan must be a finite number"),
        ({"low": 0.1, "high": 1.0, "step": 3}, "step=3 is larger than the range"),
        ({"low": 0.1}, "'high' is missing"),
        ({"low": "a", "high": 1}, "low='a' must be a finite number"),
        ({"low": float("nan"), "high": 1}, "low=nan must be a finite number"),
        ({"low": 0, "high": float("inf")}, "high=inf must be a finite number"),
        ({"low": True, "high": 2}, "low=True must be a finite number"),
        ({"choices": []}, "choices=[] must be a list"),
        ({"choices": [1, 1]}, "contains a value twice"),
        ({"choices": [1, float("inf")]}, "choices=[1, inf] must be a list"),
        ({"choices": [[20, 40], [30]]}, "must be a list of numbers, words"),
        ({"choices": [1, 2], "low": 0}, "choices and low exclude"),
        ({"low": 0, "high": 1, "hihg": 2}, "labeler.eps.hihg: 2 is not a range"),
        ({"low": 0, "high": 1, "log": "yes"}, "log='yes' must be true or false"),
        ({"low": 0, "high": 1, "when": {"labeler.gap": 1}}, "'labeler.gap', which is not searched"),
        ({"low": 0, "high": 1, "when": {"labeler.gap": float("nan")}}, "must be {KEY: VALUE}"),
        (0.5, "is not a range"),
    ],
)
def test_an_invalid_leaf_is_refused_by_its_key(leaf: Any, message: str) -> None:
    with pytest.raises(SpaceError) as error:
        parse({"labeler": {"eps": leaf}})
    assert message in error.value.cause
    assert error.value.key.startswith("labeler.eps")


def test_conditions_in_a_circle_are_refused() -> None:
    tree = {"a": {"choices": [1, 2], "when": {"b": 1}}, "b": {"choices": [1, 2], "when": {"a": 1}}}
    with pytest.raises(ConfigError, match="in a circle"):
        parse(tree)
    with pytest.raises(ConfigError, match="is never drawn"):
        parse({"a": {"choices": [1, 2]}, "b": {"choices": [1, 2], "when": {"a": 3}}})
    with pytest.raises(ConfigError, match="nothing to search"):
        parse({})


# ------------------------------------------------------------------ against the configuration

METHOD = """\
defaults:
  - override /labeler: jaccard_dbscan
  - override /objective: cluster_memory
  - override /distiller: none
method: {name: own, uses_cameras: false}
labeler: {eps: 0.6, min_samples: 4}
stages: {train: {}}

search:
  trials: 7
  space:
    labeler:
      eps: {low: 0.3, high: 0.7}
      LEAF
"""


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        ("epps: {low: 0.3, high: 0.7}", "there is no such option"),
        ("min_samples: {low: 0, high: 8}", "labeler.min_samples=0 is out of range"),
        ("min_samples: {low: 5, high: 8}", "the default, 4, is not in the range"),
        ("min_samples: {low: 8, high: 2}", "empty range"),
        ("part_weight: {low: -1.0, high: 1.0, log: true}", "low > 0 must hold"),
    ],
)
def test_the_method_whose_space_is_invalid_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leaf: str, message: str
) -> None:
    file = tmp_path / "mine" / "methods" / "own" / "config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(METHOD.replace("LEAF", leaf))
    monkeypatch.setenv("HARNESS_PLUGINS", str(tmp_path / "mine"))
    with pytest.raises(ConfigError) as error:
        make_plan(small(tmp_path, "method=own"))
    assert message in error.value.cause
    assert "It is set in the search block of the method own." in error.value.hint
    monkeypatch.undo()
    register()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+search.space.labeler.epps={low: 0.3, high: 0.7}", "there is no such option"),
        (
            "+search.space.labeler.eps={low: 0.5, high: 1.5}",
            "labeler.eps=1.5 is out of range: 0 < eps ≤ 1",
        ),
        ("+search.space.optimizer.lr={low: -1, high: 1, log: true}", "low > 0 must hold"),
        ("+search.space.labeler.min_samples={low: 2.5, high: 8.5}", "whole number"),
        ("+search.space.labeler.min_samples={choices: [2, four]}", "'four' is refused: "),
        ("+search.space.labeler.search={low: 0, high: 8}", "is not a number"),
        ("+search.space.labeler.search={choices: [auto, tensor]}", "labeler.search=tensor must be"),
        ("+search.space.seed={low: 0, high: 9}", "seed cannot be searched"),
        ("+search.space.dataset.seed={low: 0, high: 9}", "dataset cannot be searched"),
        (
            "+search.space.evaluation.rerank={choices: [true, false]}",
            "evaluation cannot be searched",
        ),
        ("+search.space.backbone={choices: [small, resnet51]}", "no backbone 'resnet51'"),
        ("+search.space.optimizer={low: 0, high: 9}", "this is a section"),
        ("+search.space.objective.hard={choices: [0, 1]}", "0 is refused: "),
        ("+search.space.train.epochs={low: 0, high: 2}", "train.epochs=0 is out of range"),
        ("+search.space.distiller.weight={low: 0, high: 2}", "there is no such option"),
    ],
)
def test_what_the_configuration_does_not_bear_is_refused(
    base: DictConfig, override: str, message: str
) -> None:
    key, node = override.removeprefix("+search.space.").split("=", 1)
    tree: Any = yaml.safe_load(node)
    for part in reversed(key.split(".")):
        tree = {part: tree}
    with pytest.raises(SpaceError) as error:
        check_space(parse(tree), partial(_configure, base, METHOD_ONLY))
    assert message in error.value.cause
    assert error.value.key == key


METHOD_ONLY = ["method=cluster_contrast"]


@pytest.fixture(scope="module")
def base() -> DictConfig:
    """A composed configuration."""
    return compose_run(tiny(Path("unused"), "method=cluster_contrast"))


def test_the_override_is_named(tmp_path: Path) -> None:
    override = "search.space.labeler.eps.low=0.9"
    with pytest.raises(ConfigError, match="empty range") as error:
        make_plan(small(tmp_path, override))
    assert error.value.hint == f"It is set by '{override}'."


def test_any_value_and_any_part_can_be_searched(tmp_path: Path) -> None:
    plan = make_plan(
        small(
            tmp_path,
            "~search.space.neighbours",
            "+search.space.optimizer.lr={low: 1e-4, high: 1e-2, log: true}",
            "+search.space.stages.train.train.epochs={low: 2, high: 3}",
            "search.warm_start=false",
            "+search.space.labeler.choices=[jaccard_dbscan, self_paced]",
            "+search.space.labeler.gap={low: 0.01, high: 0.05, when: {labeler: self_paced}}",
        )
    )
    keys = [p.key for p in plan.space]
    assert keys.index("labeler") < keys.index("labeler.gap")
    one = plan.compose({"labeler": "self_paced", "labeler.gap": 0.03, "optimizer.lr": 0.004})
    assert one.labeler._target_.endswith("SelfPaced")
    assert (one.labeler.gap, one.optimizer.lr) == (0.03, 0.004)
    assert plan.compose({"labeler.eps": 0.4}).labeler.eps == 0.4
    assert plan.base.labeler.eps == 0.6


def test_defaults_are_the_configurations_own(tmp_path: Path) -> None:
    plan = make_plan(small(tmp_path, "labeler.eps=0.5"))
    assert plan.defaults is not None
    assert plan.defaults["labeler.eps"] == 0.5
    assert plan.defaults["neighbours.k1"] == 10  # protocol=debug
    assert plan.defaults["objective.hard"] is False


def test_a_method_without_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not train"):
        make_plan(small(tmp_path, "method=direct_transfer"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("selection=oracle", "selection=oracle has no effect on the trials"),
        ("selection=label_free", "selection=label_free has no effect on the trials"),
        ("name=foo", "name=foo names one run"),
    ],
)
def test_what_would_hold_for_the_fresh_seeds_alone_is_refused(
    tmp_path: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        make_plan(small(tmp_path, override))
    assert "search." in error.value.hint


def test_another_labeler_takes_its_space_with_it(tmp_path: Path) -> None:
    plan = make_plan(small(tmp_path, "labeler=kmeans", "labeler.clusters=5",
                           "search.warm_start=false"))  # fmt: skip
    assert not [p.key for p in plan.space if p.key.startswith("labeler")]
    assert [p.key for p in plan.space if p.key.startswith("objective")]


METHODS = [p for p in plugins.find()["methods"].values() if p.name != "direct_transfer"]
CASES = [
    *(p.name for p in METHODS),
    *(pytest.param(f"{p.name}/{v}", marks=pytest.mark.slow) for p in METHODS for v in p.variants),
]


@pytest.mark.parametrize("method", CASES)
def test_every_method_has_a_space_that_holds_its_defaults(method: str) -> None:
    """Under the demo protocol, whose neighbours are others than the published ones."""
    if method.endswith("infomap"):
        pytest.importorskip("infomap")
    overrides = [f"method={method}", "dataset=synthetic"]
    config = compose_run(overrides, "search")
    OmegaConf.set_struct(config, False)
    tree: Any = OmegaConf.to_container(config.pop("search").space)
    space = check_space(parse(tree), partial(_configure, config, overrides))
    assert len(defaults(space, config, {})) == len(space.params) > 0
