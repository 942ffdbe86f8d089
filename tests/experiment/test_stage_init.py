"""`stages: {STAGE: {init: EARLIER}}`: a stage that starts from the network of an earlier one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone
from harness.experiment.compose import compose
from harness.experiment.experiment import Experiment
from harness.experiment.finished_networks import backbone_config
from harness.experiment.recipe import make_recipe
from harness.experiment.run import run_experiment
from harness.results.store import Run
from harness.training.trainer import Trainer
from tests.same import assert_same
from tests.tiny import tiny_config

DCMIP = ("method=dcmip", "train.epochs=3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_experiment(tiny_config(tmp_path_factory.mktemp("whole"), *DCMIP))


def weights(run: Run, stage: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(run.folder / f"{stage}.pt", weights_only=True)
    return state


def test_student_and_teacher_start_from_it_with_a_new_optimizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: dict[str, tuple[list[dict[str, Tensor]], int]] = {}
    epochs = Trainer.epochs

    def spied(self: Trainer) -> Any:
        networks = [self.components.backbone]
        if self.components.distiller is not None and self.components.distiller.teacher is not None:
            networks.append(self.components.distiller.teacher)
        states = [{k: v.clone() for k, v in n.state_dict().items()} for n in networks]
        starts[self.name] = states, len(self.optimizer.state)
        return epochs(self)

    monkeypatch.setattr(Trainer, "epochs", spied)
    run = run_experiment(tiny_config(tmp_path, "method=dcmip", "optimizer.step=1"))
    (first,), _ = starts["cluster"]
    states, moments = starts["instance"]
    made = weights(run, "cluster")
    assert len(states) == 2 and moments == 0
    for state in states:
        assert all(torch.equal(state[key], value) for key, value in made.items())
    assert any(not torch.equal(first[key], value) for key, value in made.items())
    rates = [[r["lr"] for r in run.history() if r["stage"] == s] for s in ("cluster", "instance")]
    assert rates[0] == rates[1] and rates[0][0] > rates[0][1], "the schedule starts anew"
    assert run.record["stages"]["instance"]["network"] == "mean teacher"


@pytest.mark.parametrize("rows", [3, 4, 5], ids=["between", "in the first epoch", "in the second"])
def test_resumed(rows: int, whole: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after so many epochs, of three in each stage: the same numbers."""
    left = Experiment._time_left

    def stop(experiment: Experiment, *arguments: Any) -> float:
        if len(experiment.progress.history) == rows + 1:
            raise KeyboardInterrupt
        return left(experiment, *arguments)

    config = tiny_config(tmp_path, *DCMIP)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Experiment, "_time_left", stop)
        run_experiment(config)
    assert_same(whole, run_experiment(config))


def test_the_first_stage_alone_has_the_same_numbers(whole: Run, tmp_path: Path) -> None:
    run = run_experiment(tiny_config(tmp_path, "method=dcmip/cluster_only", "train.epochs=3"))
    ours, theirs = weights(run, "cluster"), weights(whole, "cluster")
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert run.record["metrics"] == whole.record["stages"]["cluster"]["metrics"]


@pytest.fixture(scope="module")
def dcmip() -> DictConfig:
    return compose(["method=dcmip", "dataset=synthetic"])


def changed(config: DictConfig, **stages: Any) -> DictConfig:
    config = config.copy()
    OmegaConf.set_struct(config, False)
    config.stages = OmegaConf.merge(config.stages, stages)
    return config


def test_the_stages(dcmip: DictConfig) -> None:
    cluster, instance = make_recipe(dcmip).stages
    assert (cluster.init_stages, instance.init_stages) == ((), ("cluster",))
    assert instance.config.init is None, "of the whole, as it was"
    assert not cluster.has("distiller") and instance.has("distiller")


def test_a_stage_that_nothing_starts_from_is_left_out(dcmip: DictConfig) -> None:
    (instance,) = make_recipe(changed(dcmip, instance={"init": None})).stages
    assert (instance.name, instance.init_stages) == ("instance", ())


@pytest.mark.parametrize(
    ("stages", "hint"),
    [
        ({"instance": {"init": "clusters"}}, "Earlier stages: cluster."),
        ({"instance": {"init": "instance"}}, "Earlier stages: cluster."),
        ({"cluster": {"init": "instance"}}, "Earlier stages: none."),
        ({"instance": {"init": ["cluster", "instance"]}}, "Earlier stages: cluster."),
    ],
)
def test_only_from_an_earlier_stage(dcmip: DictConfig, stages: Any, hint: str) -> None:
    with pytest.raises(ConfigError, match="is no earlier stage of this method") as caught:
        make_recipe(changed(dcmip, **stages))
    assert hint in caught.value.hint


def test_another_network_is_refused_before_the_first_stage_trains(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "method=dcmip", "stages.instance.backbone.widths=[8,32]")
    with pytest.raises(ConfigError, match="of stage 'cluster' are of another backbone") as caught:
        run_experiment(config)
    assert "Stage 'instance' starts from it" in caught.value.hint
    assert not list((tmp_path / "runs").glob("*/history.json"))


def test_epochs_as_published() -> None:
    """A stage's own number of epochs in protocol=published alone, whatever the backbone."""
    for backbone in ("resnet50", "small"):
        config = compose(["method=dcmip", "protocol=published", f"backbone={backbone}"])
        assert [s.config.train.epochs for s in make_recipe(config).stages] == [40, 50]
    for more in ([], ["protocol=published", "stages.cluster.train.epochs=50"]):
        config = compose(["method=dcmip", *more])
        assert [s.config.train.epochs for s in make_recipe(config).stages] == [50, 50]
    config = compose(["method=dcmip/cluster_only", "protocol=published"])
    assert [s.config.train.epochs for s in make_recipe(config).stages] == [40]


# --------------------------------------------------------------- several stages, other parts


def test_student_and_peer_start_from_a_stage_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[list[dict[str, Tensor]]] = []
    epochs = Trainer.epochs

    def spied(self: Trainer) -> Any:
        networks = [m for m in self.trained.modules() if isinstance(m, Backbone)]
        starts.append([{k: v.clone() for k, v in n.state_dict().items()} for n in networks])
        return epochs(self)

    monkeypatch.setattr(Trainer, "epochs", spied)
    run = run_experiment(tiny_config(tmp_path, "method=mmt/uda"))
    first, second = (weights(run, stage) for stage in ("source", "source_2"))
    assert any(not torch.equal(first[key], value) for key, value in second.items())
    found = starts[-1]
    assert len(found) == 4, "two students and the teacher of each"
    for made in (first, second):
        alike = [all(torch.equal(s[k], value) for k, value in made.items()) for s in found]
        assert sum(alike) == 2
    assert all(torch.equal(found[0][key], value) for key, value in first.items())


def test_another_part_in_a_stage_replaces_the_one_at_the_top() -> None:
    recipe = make_recipe(compose(["method=mmt/uda", "source=synthetic"]))
    source, _, train = recipe.stages
    assert set(source.config.labeler) == {"_target_"}, "no option of DBSCAN is left"
    assert "eps" in train.config.labeler
    assert source.config.objective.margin == train.config.objective.margin
    assert (train.init_stages, train.needs) == (("source", "source_2"),) * 2


def test_so_it_does_where_a_finished_network_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = {"backbone": {"_target_": "a", "x": 2}}
    other = {"backbone": {"_target_": "b", "y": 3}}
    config = {"backbone": {"_target_": "a", "x": 1, "z": 4}, "stages": {"s": alike, "t": other}}
    monkeypatch.setattr(Run, "complete_config", lambda self: config)
    run = Run(tmp_path)
    assert backbone_config(run, "s") == {"_target_": "a", "x": 2, "z": 4}
    assert backbone_config(run, "t") == {"_target_": "b", "y": 3}
    assert backbone_config(run, "initial") == config["backbone"]


def test_a_wrong_option_of_such_a_part_is_named(tmp_path: Path) -> None:
    changed = tiny_config(tmp_path, "method=mmt/uda", "+stages.source.labeler.epss=1")
    with pytest.raises(ConfigError, match=r"labeler\.epss"):
        run_experiment(changed)
    changed = tiny_config(tmp_path, "method=mmt/uda")
    changed.stages.train.init = ["source", "source_3"]
    with pytest.raises(ConfigError, match=r"stages\.train\.init=source_3 is no earlier stage"):
        run_experiment(changed)
