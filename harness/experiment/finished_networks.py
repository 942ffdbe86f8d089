"""Networks of finished runs: where training begins (`init=RUN`), and teachers of other runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from harness.components.backbones.weights import read_state
from harness.core.errors import ConfigError
from harness.core.hashing import hexdigest
from harness.core.interfaces import Backbone
from harness.experiment.recipe import stage_config
from harness.experiment.stages import Stage, build_backbone
from harness.results.store import Run, Store, trained_on

#: options of a backbone that give it random weights
RANDOM = {"weights": "none", "pretrained": False}


@dataclass(frozen=True)
class FinishedNetwork:
    """The network that a stage of a finished run ended with.

    digest: of its weights. Settings hashes and protocol cards identify it by this digest, because a
    run may be renamed, or repeated with other weights.
    """

    run: Run
    stage: str
    digest: str

    @property
    def described(self) -> str:
        """Run, stage and digest, for config.json."""
        return f"{self.run.name} {self.stage} {self.digest}"

    @property
    def on_card(self) -> str:
        """The line `weights` of the protocol card of a run that begins from it."""
        return f"of a model trained on {trained_on(self.run.record)} ({self.digest})"

    def as_dict(self) -> dict[str, Any]:
        """The section `init` of the record of a run that begins from it."""
        return {
            "run": self.run.name,
            "stage": self.stage,
            "digest": self.digest,
            "method": self.run.record["experiment"]["method"],
            "trained_on": trained_on(self.run.record),
        }


def find_init(config: DictConfig) -> FinishedNetwork | None:
    """The network of `init=RUN`, of the run's last stage; None without `init`.

    Raises:
        ConfigError: there is no such run, it is unfinished, or it kept no weights.
    """
    if config.get("init") is None:
        return None
    run = _finished_run(config, "init", str(config.init))
    return _network(run, list(run.record["stages"])[-1])


def find_teachers(config: DictConfig, stages: tuple[Stage, ...]) -> dict[str, FinishedNetwork]:
    """Stage → the finished network that `distiller.teacher=RUN` names: of the run's stage
    `teacher` if it has one, else of its last stage.

    Raises:
        ConfigError: there is no such run, it is unfinished, or it kept no weights.
    """
    found = {}
    for stage in stages:
        if stage.teacher_run is not None:
            run = _finished_run(config, "distiller.teacher", stage.teacher_run)
            names = list(run.record["stages"])
            found[stage.name] = _network(run, "teacher" if "teacher" in names else names[-1])
    return found


def _finished_run(config: DictConfig, option: str, name: str) -> Run:
    run = Store(Path(str(config.store))).find(name)
    if not run.finished:
        raise ConfigError(
            f"{option}={run.name}: this run is not finished.",
            "Finish that run first, or choose another (harness list runs).",
        )
    return Run(run.folder.absolute())


def _network(run: Run, stage: str) -> FinishedNetwork:
    return FinishedNetwork(run, stage, hexdigest([weights_of(run, stage).read_bytes()], size=8))


def weights_of(run: Run, stage: str) -> Path:
    """The file of a stage's weights.

    Raises:
        ConfigError: the run kept none.
    """
    path = run.folder / f"{stage}.pt"
    if not path.is_file():
        raise ConfigError(
            f"{run.name} kept no weights of its stage '{stage}' ({path.name} is missing).",
            "Committed records come without weights. Run it again: overwrite=always.",
        )
    return path


def load_network(run: Run, stage: str) -> Backbone:
    """The network that a run's stage ended with.

    Raises:
        ConfigError: the run kept no weights, or they are of another network. DataError: they
            cannot be read.
    """
    state = read_state(weights_of(run, stage))
    backbone = build_backbone(without_weights(OmegaConf.create(backbone_config(run, stage))))
    load_weights(backbone, state, run.name)
    return backbone


def backbone_config(run: Run, stage: str) -> dict[str, Any]:
    """The configuration of a stage's backbone."""
    config = run.complete_config()
    own = stage_config(OmegaConf.create(config), config["stages"].get(stage)).backbone
    backbone: Any = OmegaConf.to_container(own)
    return dict(backbone)


def load_weights(
    backbone: Backbone, state: Mapping[str, Tensor], source: str,
    hint: str = "Use the same backbone and backbone.views, or another run.",
) -> None:  # fmt: skip
    """Give a network the weights of another one, batch statistics included.

    `source` names them in the error message, which `hint` follows.

    Raises:
        ConfigError: names or shapes differ.
    """
    try:
        backbone.load_state_dict(state)
    except RuntimeError as error:
        differences = shorten(str(error).split(":", 1)[1], 200, placeholder=" …")
        raise ConfigError(
            f"The weights of {source} are of another backbone: {differences}", hint
        ) from error


def build_initial(node: DictConfig, init: FinishedNetwork | None) -> Backbone:
    """A network with its initial weights: those that its config names, or those of `init=RUN`.

    Raises:
        HarnessError: the weights are not available or do not fit.
    """
    if init is None:
        return build_backbone(node)
    backbone = build_backbone(without_weights(node))
    state = read_state(weights_of(init.run, init.stage))
    own, its = OmegaConf.to_container(node, resolve=True), backbone_config(init.run, init.stage)
    assert isinstance(own, dict)
    changes = [
        f"backbone.{key}={value}".replace("'", "").replace(" ", "")
        for key, value in its.items()
        if key in own and own[key] != value and key not in ("weights", "_target_")
    ]
    hints = []
    if changes and its.get("_target_") == own.get("_target_"):
        hints = [f"Add {' '.join(changes)}, as that run has, or choose another run."]
    load_weights(backbone, state, f"init={init.run.name}", *hints)
    return backbone


def without_weights(node: DictConfig) -> DictConfig:
    """The configuration of a backbone with random weights."""
    changes = {key: value for key, value in RANDOM.items() if key in node}
    merged = OmegaConf.merge(node, changes)
    assert isinstance(merged, DictConfig)
    return merged
