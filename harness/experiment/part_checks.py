"""Checks of a recipe's parts that need them built, made before any training."""

from __future__ import annotations

from omegaconf import DictConfig

from harness.core.errors import ConfigError, Problems
from harness.core.interfaces import Backbone
from harness.data.types import ReIDData
from harness.experiment.finished_networks import (
    build_initial,
    load_network,
    load_weights,
    without_weights,
)
from harness.experiment.plan import Plan
from harness.experiment.recipe import Recipe
from harness.experiment.stages import (
    Stage,
    build_backbone,
    build_distiller,
    build_labeler,
    build_objective,
)

#: weights that may have to be downloaded
DOWNLOADED = "imagenet"


def check_parts(plan: Plan) -> None:
    """Build every part of every stage once, so that nothing is refused after hours of training.

    Raises:
        HarnessError: a part refuses its options, or weights are missing or do not fit.
    """
    problems = Problems()
    collect_part_problems(plan, problems)
    problems.check()
    check_downloads(plan)


def collect_part_problems(plan: Plan, problems: Problems) -> None:
    """`check_parts` without downloads."""
    for node in _backbones(plan):
        with problems.collecting():
            if _is_downloaded(node, plan):
                build_backbone(without_weights(node))
            else:
                build_initial(node, plan.init)
    for stage in plan.recipe.stages:
        with problems.collecting():
            build_labeler(stage)
        with problems.collecting():
            build_objective(stage)
        with problems.collecting():
            _check_distiller(plan, stage)
        with problems.collecting():
            _check_init(plan, stage)


def check_downloads(plan: Plan) -> None:
    """Build the networks whose weights may have to be downloaded.

    Raises:
        DataError: they cannot be downloaded, or do not fit.
    """
    for node in _backbones(plan):
        if _is_downloaded(node, plan):
            build_initial(node, plan.init)


def _backbones(plan: Plan) -> list[DictConfig]:
    """The different backbones of an experiment."""
    found: list[DictConfig] = []
    for node in [plan.config.backbone, *(stage.config.backbone for stage in plan.recipe.stages)]:
        if node not in found:
            found.append(node)
    return found


def _is_downloaded(node: DictConfig, plan: Plan) -> bool:
    return plan.init is None and node.get("weights") == DOWNLOADED


def _check_distiller(plan: Plan, stage: Stage) -> None:
    if not stage.has("distiller"):
        return
    student = build_backbone(without_weights(stage.config.backbone))
    teacher = None
    if (finished := plan.teachers.get(stage.name)) is not None:
        teacher = load_network(finished.run, finished.stage)
    elif stage.teacher_stage is not None:
        source = next(s for s in plan.recipe.stages if s.name == stage.teacher_stage)
        teacher = build_backbone(without_weights(source.config.backbone))
    if teacher is not None:
        _check_teacher(teacher, student, stage)
    build_distiller(stage, teacher, student)


def _check_init(plan: Plan, stage: Stage) -> None:
    for init in (s for s in plan.recipe.stages if s.name in stage.init_stages):
        made, own = (build_backbone(without_weights(s.config.backbone)) for s in (init, stage))
        hint = f"Stage '{stage.name}' starts from it: use the same backbone and backbone.views."
        load_weights(own, made.state_dict(), f"stage '{init.name}'", hint)


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


def check_cameras(recipe: Recipe, data: ReIDData) -> None:
    """Check that no part needs cameras that the data lack.

    Raises:
        ConfigError: a part needs cameras.
    """
    if data.train.cameras is not None:
        return
    without = [part.name for part in data.parts if part.train.cameras is None]
    for stage in recipe.stages:
        for part in (build_labeler(stage), build_objective(stage)):
            if part.uses_cameras:
                raise ConfigError(
                    f"{type(part).__name__} needs cameras, but {', '.join(without) or data.name} "
                    "has none.",
                    "Add a camera column to the data, or choose another part.",
                )


def check_test_part(plan: Plan, data: ReIDData) -> None:
    """Check that data without a test part are only trained on.

    Raises:
        ConfigError: the method does not train, or the test set selects the checkpoint.
    """
    if len(data.query.images) or len(data.gallery.images):
        return
    if not plan.recipe.stages:
        raise ConfigError(
            f"{plan.recipe.method} does not train, and {data.name} has no test part.",
            "Choose a method that trains, or data with query and gallery images.",
        )
    if plan.config.selection == "oracle":
        raise ConfigError(
            f"selection=oracle needs a test part, and {data.name} has none.", "Use selection=last."
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
