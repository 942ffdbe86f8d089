"""Networks of finished runs, and the check that every part of a recipe can be built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from harness.backbones import set_samples_per_bn
from harness.backbones.weights import read_state
from harness.errors import ConfigError
from harness.interfaces import Backbone
from harness.recipe import (
    Recipe,
    Stage,
    build_backbone,
    build_distiller,
    build_labeler,
    build_objective,
)
from harness.results.store import Run, Store


def check_parts(config: DictConfig, recipe: Recipe) -> None:
    """Build every part of every stage once, so that nothing is refused after an hour.

    Raises:
        HarnessError: what a part refuses; weights that cannot be had or do not fit; a teacher that
            does not fit.
    """
    built: list[DictConfig] = []
    for node in [config.backbone, *(stage.config.backbone for stage in recipe.stages)]:
        if node not in built:
            build_backbone(node)
            built.append(node)
    for stage in recipe.stages:
        build_labeler(stage)
        build_objective(stage)
        teacher = None
        if stage.teacher_run is not None:
            teacher = teacher_of_run(config, stage, torch.device("cpu"))
        elif stage.teacher_stage is not None:  # any network will do here
            teacher = build_backbone(_without_weights(stage.config.backbone))
        build_distiller(stage, teacher)


def teacher_of_run(config: DictConfig, stage: Stage, device: torch.device) -> Backbone:
    """A teacher out of a finished run: its stage `teacher` if it has one, else its last stage.

    Raises:
        ConfigError: the run is unfinished, kept no weights, or its network gives other views or
            another embedding size than the student's.
    """
    run = Store(Path(config.store)).find(str(stage.teacher_run))
    if not run.finished or not run.record["stages"]:
        raise ConfigError(
            f"{run.name} has no finished, trained network to be a teacher.",
            "Finish that run first, or choose another (harness list runs).",
        )
    names = list(run.record["stages"])
    name = "teacher" if "teacher" in names else names[-1]
    backbone = load_network(run, name)
    student = build_backbone(_without_weights(stage.config.backbone))
    if backbone.views != student.views or backbone.dim != student.dim:
        raise ConfigError(
            f"The teacher of {run.name} gives views {list(backbone.views)} of {backbone.dim} "
            f"features, the student {list(student.views)} of {student.dim}.",
            "Use the same backbone and backbone.views for both.",
        )
    set_samples_per_bn(backbone, int(config.batch.samples_per_bn))
    return backbone.to(device).to(memory_format=torch.channels_last)


def load_network(run: Run, stage: str) -> Backbone:
    """The network that a run's stage ended with.

    Raises:
        ConfigError: the run kept no weights. DataError: they cannot be read.
    """
    path = run.folder / f"{stage}.pt"
    if not path.is_file():
        raise ConfigError(
            f"{run.name} kept no weights of its stage '{stage}' ({path.name} is missing).",
            "Records committed to a repository come without weights: run it again, force=true.",
        )
    node = OmegaConf.merge(run.config()["backbone"], _stage_backbone(run, stage))
    assert isinstance(node, DictConfig)
    backbone = build_backbone(_without_weights(node))
    backbone.load_state_dict(read_state(path))
    return backbone


def _stage_backbone(run: Run, stage: str) -> dict[str, Any]:
    return (run.config()["stages"].get(stage) or {}).get("backbone") or {}


def _without_weights(node: DictConfig) -> DictConfig:
    merged = OmegaConf.merge(node, {"weights": "none"})
    assert isinstance(merged, DictConfig)
    return merged
