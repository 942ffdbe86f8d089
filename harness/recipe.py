"""From a composed configuration to a recipe: the stages to run, all checked before any work.

A method's `stages` run in order. Each takes the parts at the top of the configuration and changes
what it names: `stages: {teacher: {distiller: null}, student: {train: {warmup_epochs: 1}}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_class, get_method, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.errors import ConfigError, HarnessError, did_you_mean
from harness.interfaces import Backbone, Distiller, Objective, PseudoLabeler

#: the parts and settings that a stage may change
STAGE_KEYS = (
    "backbone", "labeler", "objective", "distiller", "train", "batch", "optimizer", "neighbours",
)  # fmt: skip
TOP_KEYS = (
    *STAGE_KEYS, "seed", "protocol", "images", "evaluation", "selection", "method", "stages",
    "dataset", "data", "store", "name", "force", "device", "threads",
)  # fmt: skip
PARTS = ("labeler", "objective", "distiller")
SELECTIONS = ("last", "oracle")
POSITIVE = ("images.height", "images.width", "batch.identities", "batch.images",
            "train.epochs", "train.iterations", "optimizer.step", "evaluation.every")  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One training phase: its name, its own complete configuration, and whose teacher it needs.

    teacher_stage: an earlier stage of this recipe. teacher_run: a finished run, by name or folder.
    """

    name: str
    config: DictConfig
    teacher_stage: str | None = None
    teacher_run: str | None = None

    def has(self, part: str) -> bool:
        """Whether this stage has a labeler, objective or distiller."""
        node = self.config.get(part)
        return node is not None and node.get("_target_") is not None


@dataclass(frozen=True)
class Recipe:
    """What a cell does: its stages in order (none: the backbone is tested as it is)."""

    method: str
    uses_cameras: bool
    stages: tuple[Stage, ...]


def make_recipe(config: DictConfig) -> Recipe:
    """Check a composed configuration and lay out its stages.

    Stages that no later stage takes its teacher from are left out, but for the last: with
    `distiller.teacher=RUN` MSKD's own teacher stage is not run.

    Raises:
        ConfigError: values out of range, parts that cannot be combined, a stage or a teacher that
            does not exist; with the reason.
    """
    _check_values(config)
    name = str(config.method.name)
    uses_cameras = bool(config.method.uses_cameras)
    given: Mapping[str, Any] = config.stages or {}
    stages = [_stage(config, str(key), list(given), uses_cameras) for key in given]
    needed: list[Stage] = []
    for position, stage in reversed(list(enumerate(stages))):
        wanted = {later.teacher_stage for later in needed}
        if position == len(stages) - 1 or stage.name in wanted:
            needed.insert(0, stage)
    return Recipe(name, uses_cameras, tuple(needed))


def _stage(config: DictConfig, name: str, names: list[str], uses_cameras: bool) -> Stage:
    changes = config.stages[name] or {}
    for key in changes:
        if key not in STAGE_KEYS:
            raise ConfigError(
                f"stages.{name}.{key}: a stage cannot change that.", did_you_mean(key, STAGE_KEYS)
            )
    try:
        merged = OmegaConf.merge(config, changes)
    except OmegaConfBaseException as error:
        raise ConfigError(f"stages.{name}: {error}".splitlines()[0]) from error
    assert isinstance(merged, DictConfig)
    stage = Stage(name, merged)
    for part in ("labeler", "objective"):
        if not stage.has(part):
            raise ConfigError(
                f"{config.method.name} trains (stage '{name}') but has {part}=none.",
                f"Choose one: harness list {part}s.",
            )
    for part in PARTS:
        if stage.has(part):
            _check_target(merged[part]._target_, part)
            kind = get_class(merged[part]._target_)
            if getattr(kind, "uses_cameras", False) is True and not uses_cameras:
                raise ConfigError(
                    f"{kind.__name__} needs cameras, but method.uses_cameras is false.",
                    "Set method.uses_cameras=true (tables will show it), or choose another part.",
                )
    if not stage.has("distiller"):
        if merged.train.warmup_epochs:
            raise ConfigError(
                f"stages.{name} has {merged.train.warmup_epochs} warm-up epochs but no distiller "
                "whose teacher could label them.",
                "Choose distiller=offline_teacher or train.warmup_epochs=0.",
            )
        return stage
    teacher = merged.distiller.get("teacher")
    if teacher is None:
        return stage
    earlier = names[: names.index(name)]
    if teacher in earlier:
        return Stage(name, merged, teacher_stage=str(teacher))
    if teacher == name or teacher in names or teacher == "teacher":
        raise ConfigError(
            f"Stage '{name}' of {config.method.name} wants its teacher from stage '{teacher}', "
            "which does not come before it.",
            "Name a finished run: distiller.teacher=RUN (harness list runs), or use method=mskd.",
        )
    return Stage(name, merged, teacher_run=str(teacher))


def _check_target(target: str, where: str) -> None:
    try:
        get_method(target)
    except Exception as error:
        raise ConfigError(
            f"{where}._target_={target} cannot be imported: {str(error).splitlines()[0]}"
        ) from error


def _check_values(config: DictConfig) -> None:
    for key in config:
        if key not in TOP_KEYS:
            raise ConfigError(f"There is no option '{key!s}'.", did_you_mean(str(key), TOP_KEYS))
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ConfigError(f"No value was given for {', '.join(missing)}.")
    if config.selection not in SELECTIONS:
        raise ConfigError(
            f"selection={config.selection} is unknown.",
            did_you_mean(str(config.selection), SELECTIONS),
        )
    for key in POSITIVE:
        value = OmegaConf.select(config, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{key}={value} must be a whole number, 1 or more.")
    for key in ("batch.samples_per_bn", "train.warmup_epochs", "images.pad", "seed", "threads"):
        value = OmegaConf.select(config, key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ConfigError(f"{key}={value} must be a whole number, 0 or more.")
    batch, group = config.batch.identities * config.batch.images, config.batch.samples_per_bn
    if group == 1 or batch < 2:
        raise ConfigError(
            f"Batches of {batch} with samples_per_bn={group}: a single image has no statistics.",
            "Use batch.samples_per_bn=0 (whole batch) or 2 and more, and batches of 2 and more.",
        )
    if group and batch % group and batch > group:
        raise ConfigError(
            f"batch.samples_per_bn={group} does not divide the batch of {batch} images "
            f"({config.batch.identities} × {config.batch.images}).",
            "Choose a divisor, or 0 for the whole batch.",
        )
    for key in ("optimizer.lr", "optimizer.gamma"):
        if not isinstance(OmegaConf.select(config, key), int | float) or (
            OmegaConf.select(config, key) <= 0
        ):
            raise ConfigError(f"{key}={OmegaConf.select(config, key)} must be a number above 0.")


# ------------------------------------------------------------------------------------- building


def build(node: DictConfig, what: str, **extra: Any) -> Any:
    """Build a part from its config.

    Raises:
        ConfigError: an option that the part does not have, or a value that it refuses.
    """
    try:
        return instantiate(node, **extra, _convert_="all")
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, HarnessError):
                raise cause from error
            cause = cause.__cause__
        root = error.__cause__ or error
        raise ConfigError(f"{what} cannot be built: {str(root).splitlines()[0]}") from error


def build_backbone(node: DictConfig) -> Backbone:
    """The network, with its initial weights."""
    return build(node, "backbone")


def build_labeler(stage: Stage) -> PseudoLabeler:
    """The stage's labeler."""
    return build(stage.config.labeler, "labeler")


def build_objective(stage: Stage) -> Objective:
    """The stage's objective."""
    return build(stage.config.objective, "objective")


def build_distiller(stage: Stage, teacher: Backbone | None) -> Distiller | None:
    """The stage's distiller around its teacher, or None."""
    if not stage.has("distiller"):
        return None
    if teacher is None:
        return build(stage.config.distiller, "distiller")
    return build(stage.config.distiller, "distiller", teacher=teacher)
