"""Checks of a recipe's parts that need them built, made before any training."""

from __future__ import annotations

from omegaconf import DictConfig

from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone
from harness.experiment.finished_networks import build_initial, load_network, without_weights
from harness.experiment.plan import Plan
from harness.experiment.recipe import Recipe
from harness.experiment.stages import (
    Stage,
    build_backbone,
    build_distiller,
    build_labeler,
    build_objective,
)


def check_parts(plan: Plan) -> None:
    """Build every part of every stage once, so that nothing is refused after hours of training.

    Raises:
        HarnessError: a part refuses its options, or weights are missing or do not fit.
    """
    recipe, built = plan.recipe, list[DictConfig]()
    for node in [plan.config.backbone, *(stage.config.backbone for stage in recipe.stages)]:
        if node not in built:
            build_initial(node, plan.init)
            built.append(node)
    for stage in recipe.stages:
        build_labeler(stage)
        build_objective(stage)
        if not stage.has("distiller"):
            continue
        student = build_backbone(without_weights(stage.config.backbone))
        teacher = None
        if (finished := plan.teachers.get(stage.name)) is not None:
            teacher = load_network(finished.run, finished.stage)
        elif stage.teacher_stage is not None:
            source = next(s for s in recipe.stages if s.name == stage.teacher_stage)
            teacher = build_backbone(without_weights(source.config.backbone))
        if teacher is not None:
            _check_teacher(teacher, student, stage)
        build_distiller(stage, teacher, student)


def _check_teacher(teacher: Backbone, student: Backbone, stage: Stage) -> None:
    if teacher.views != student.views or teacher.dim != student.dim:
        hint = "Use the same backbone and backbone.views for both."
        if teacher.dim == student.dim:
            hint = f"Add backbone.views=[{','.join(teacher.views)}], or use another teacher."
        raise ConfigError(
            f"The teacher of stage '{stage.name}' has views {list(teacher.views)} of "
            f"{teacher.dim} features, the student {list(student.views)} of {student.dim}.",
            hint,
        )


def check_images(recipe: Recipe, images: int) -> None:
    """Check that the labelers can label N training images, and that objectives hold the labels.

    Raises:
        ConfigError: a labeler needs more images, gives fewer clusters than a batch has, or more
            than its objective has room for.
    """
    for stage in recipe.stages:
        labeler, objective, batch = build_labeler(stage), build_objective(stage), stage.config.batch
        name = f"{type(labeler).__name__} ({labeler.describe()})"
        if images < labeler.min_images:
            raise ConfigError(
                f"{images} training images are too few: {name} needs {labeler.min_images}.",
                "Use more images, or other settings of the labeler (labeler., neighbours.k1).",
            )
        clusters, room = labeler.max_clusters(images), objective.max_clusters
        if clusters is None:
            continue
        if clusters < batch.identities and batch.sampler == "identity":
            raise ConfigError(
                f"{name} gives {clusters} clusters at most, fewer than the {batch.identities} of a "
                "batch.",
                f"Set batch.identities={clusters} or fewer, or make more clusters.",
            )
        if room is not None and clusters > room:
            raise ConfigError(
                f"{type(labeler).__name__} can give {images} images {clusters} labels, more than "
                f"the {room} that {type(objective).__name__} has room for.",
                f"Set objective.max_clusters={clusters}, or choose another labeler.",
            )
