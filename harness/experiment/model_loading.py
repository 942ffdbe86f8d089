"""Networks of finished runs, and the check that every part of a recipe can be built."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.components.backbones.weights import read_state
from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone
from harness.experiment.init_from import Init, find_init
from harness.experiment.recipe import Recipe
from harness.experiment.stages import (
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
    init = find_init(config)
    for node in [config.backbone, *(stage.config.backbone for stage in recipe.stages)]:
        if node not in built:
            build_initial(node, init)
            built.append(node)
    for stage in recipe.stages:
        build_labeler(stage)
        build_objective(stage)
        if not stage.has("distiller"):
            continue
        student = build_backbone(_without_weights(stage.config.backbone))
        teacher = None
        if stage.teacher_run is not None:
            teacher = load_network(*run_of_teacher(config, stage))
        elif stage.teacher_stage is not None:
            source = next(s for s in recipe.stages if s.name == stage.teacher_stage)
            teacher = build_backbone(_without_weights(source.config.backbone))
        if teacher is not None:
            _check_teacher(teacher, student, stage)
        build_distiller(stage, teacher, student)


def check_images(recipe: Recipe, images: int) -> None:
    """Whether the labelers can label so many training images, and the objectives hold the labels.

    Args:
        images: N.

    Raises:
        ConfigError: a stage's labeler needs more images, cannot give the labels that a batch
            needs, or can give more than its objective has room for.
    """
    for stage in recipe.stages:
        labeler, objective = build_labeler(stage), build_objective(stage)
        name, labels = type(labeler).__name__, labeler.max_clusters(images)
        if images < labeler.min_images:
            raise ConfigError(
                f"{images} training images are too few: {name} ({labeler.describe()}) needs "
                f"{labeler.min_images}.",
                "Use more images, or other settings of the labeler (labeler., neighbours.k1).",
            )
        batch = stage.config.batch
        if labels is not None and labels < batch.identities and batch.sampler == "identity":
            raise ConfigError(
                f"{name} ({labeler.describe()}) gives {labels} clusters at most, fewer than the "
                f"{batch.identities} of a batch.",
                f"Set batch.identities={labels} or fewer, or make more clusters.",
            )
        room = objective.max_clusters
        if labels is not None and room is not None and labels > room:
            raise ConfigError(
                f"{name} can give {images} images {labels} labels, more than the {room} that "
                f"{type(objective).__name__} has room for.",
                f"Set objective.max_clusters={labels}, or choose another labeler.",
            )


def _check_teacher(teacher: Backbone, student: Backbone, stage: Stage) -> None:
    if teacher.views != student.views or teacher.dim != student.dim:
        raise ConfigError(
            f"The teacher of stage '{stage.name}' gives views {list(teacher.views)} of "
            f"{teacher.dim} features, the student {list(student.views)} of {student.dim}.",
            "Use the same backbone and backbone.views for both.",
        )


def run_of_teacher(config: DictConfig, stage: Stage) -> tuple[Run, str]:
    """The finished run that a stage takes its teacher from, and which of its stages that is:
    `teacher` if it has one, else its last.

    Raises:
        ConfigError: there is no such run, or it is unfinished.
    """
    run = Store(Path(config.store).expanduser()).find(str(stage.teacher_run))
    if not run.finished:
        raise ConfigError(
            f"{run.name} has no finished network to be a teacher.",
            "Finish that run first, or choose another (harness list runs).",
        )
    names = list(run.record["stages"])
    return run, "teacher" if "teacher" in names else names[-1]


def find_teachers(config: DictConfig, recipe: Recipe) -> tuple[Recipe, dict[str, str]]:
    """The recipe with the folders of the runs that teachers come from, looked up once: what a
    beginning of a name fits may change as soon as this cell has a folder of its own.

    Returns:
        The recipe, and stage → run, stage and digest of its teacher.

    Raises:
        ConfigError: there is no such run, it is unfinished, or it kept no weights.
    """
    stages, teachers = [], {}
    for stage in recipe.stages:
        if stage.teacher_run is not None:
            run, name = run_of_teacher(config, stage)
            digest = hashlib.blake2b(_weights(run, name).read_bytes(), digest_size=8).hexdigest()
            teachers[stage.name] = f"{run.name} {name} {digest}"
            stage = replace(stage, teacher_run=str(run.folder.absolute()))
        stages.append(stage)
    return replace(recipe, stages=tuple(stages)), teachers


def _weights(run: Run, stage: str) -> Path:
    path = run.folder / f"{stage}.pt"
    if not path.is_file():
        raise ConfigError(
            f"{run.name} kept no weights of its stage '{stage}' ({path.name} is missing).",
            "Committed records come without weights: run it again, overwrite=always.",
        )
    return path


def load_network(run: Run, stage: str) -> Backbone:
    """The network that a run's stage ended with.

    Raises:
        ConfigError: the run kept no weights. DataError: they cannot be read.
    """
    path = _weights(run, stage)
    node = OmegaConf.merge(run.config()["backbone"], _stage_backbone(run, stage))
    assert isinstance(node, DictConfig)
    backbone = build_backbone(_without_weights(node))
    backbone.load_state_dict(read_state(path))
    return backbone


def build_initial(node: DictConfig, init: Init | None) -> Backbone:
    """A network as training begins with it: with the weights that its config names, or those of a
    finished run.

    Raises:
        HarnessError: weights that cannot be had or do not fit.
    """
    if init is None:
        return build_backbone(node)
    backbone = build_backbone(_without_weights(node))
    init.load_into(backbone)
    return backbone


def _stage_backbone(run: Run, stage: str) -> dict[str, Any]:
    return (run.config()["stages"].get(stage) or {}).get("backbone") or {}


def _without_weights(node: DictConfig) -> DictConfig:
    merged = OmegaConf.merge(node, {"weights": "none"})
    assert isinstance(merged, DictConfig)
    return merged
