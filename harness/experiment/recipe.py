"""From a composed configuration to a recipe: the stages to run, all checked before any work.

A method's `stages` run in order. Each takes the parts at the top of the configuration and changes
what it names: `stages: {teacher: {distiller: null}, student: {train: {warmup_epochs: 1}}}`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.core.errors import ConfigError, did_you_mean, first_line
from harness.core.views import count_parts
from harness.experiment.combinations import check_combination
from harness.experiment.sections import STAGE_KEYS, check_sections, check_stage
from harness.experiment.stages import PLUGS, Stage, copies_student, target_of
from harness.training.label_schedule import label_schedule


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
    check_sections(config)
    name = str(config.method.name)
    uses_cameras = bool(config.method.uses_cameras)
    given: Mapping[str, Any] = config.stages or {}
    if not given:
        _check_untrained(config)
    stages = [_stage(config, str(key), list(given), uses_cameras) for key in given]
    needed: list[Stage] = []
    for position, stage in reversed(list(enumerate(stages))):
        wanted = {later.teacher_stage for later in needed}
        if position == len(stages) - 1 or stage.name in wanted:
            needed.insert(0, stage)
    return Recipe(name, uses_cameras, tuple(needed))


def _check_untrained(config: DictConfig) -> None:
    """Refuse parts that would do nothing, as the method has no stages."""
    for part in ("labeler", "objective", "distiller"):
        target = config[part].get("_target_")
        if target is not None:
            raise ConfigError(
                f"{config.method.name} does not train: a {part} ({target.rsplit('.', 1)[-1]}) "
                "would do nothing.",
                f"Choose {part}=none, or a method that trains (harness list methods).",
            )


def _stage(config: DictConfig, name: str, names: list[str], uses_cameras: bool) -> Stage:
    changes = OmegaConf.create({}) if config.stages[name] is None else config.stages[name]
    if not isinstance(changes, DictConfig):
        raise ConfigError(f"stages.{name}={changes!s} must be keys and values.")
    for key in map(str, changes):
        if key not in STAGE_KEYS:
            raise ConfigError(
                f"stages.{name}.{key}: a stage cannot change that.", did_you_mean(key, STAGE_KEYS)
            )
    for key in ("train.precision", "train.compile"):
        if OmegaConf.select(changes, key) is not None:
            raise ConfigError(
                f"stages.{name}.{key}: a stage cannot change that.", f"All stages share {key}."
            )
    for key in _unknown(changes, config):
        known = _keys(config, STAGE_KEYS)
        raise ConfigError(f"stages.{name}.{key}: there is no such option.", _near(key, known))
    try:
        merged = OmegaConf.merge(config, changes)
    except OmegaConfBaseException as error:
        raise ConfigError(f"stages.{name}: {first_line(error)}") from error
    assert isinstance(merged, DictConfig)
    where = f"stages.{name}: " if changes else ""
    check_stage(merged, where)
    stage = Stage(name, merged)
    _check_parts(stage, uses_cameras)
    _check_views(stage)
    _check_schedule(merged)
    if stage.has("distiller"):
        return _with_teacher(stage, names)
    if merged.train.warmup_epochs:
        own = OmegaConf.select(changes, "train.warmup_epochs") is not None
        raise ConfigError(
            f"stages.{name} has {merged.train.warmup_epochs} warm-up epochs but no distiller "
            "whose teacher could label them.",
            f"Choose distiller=offline_teacher or {f'stages.{name}.' if own else ''}"
            "train.warmup_epochs=0, or a variant of the method (harness list methods).",
        )
    return stage


def _check_parts(stage: Stage, uses_cameras: bool) -> None:
    """Whether the parts that training needs are there, may see what they look at, and fit.

    Raises:
        ConfigError: they are not, may not, or do not; with the reason.
    """
    config = stage.config
    for part in ("labeler", "objective"):
        if not stage.has(part):
            raise ConfigError(
                f"{config.method.name} trains (stage '{stage.name}') but has {part}=none.",
                f"Choose one: harness list {part}s.",
            )
    for part in PLUGS:
        if stage.has(part):
            kind = target_of(config[part]._target_, part)
            needs = getattr(kind, "needs_cameras", None)
            if needs is not None and needs(config[part]) and not uses_cameras:
                raise ConfigError(
                    f"{kind.__name__} needs cameras, but method.uses_cameras is false.",
                    "Set method.uses_cameras=true (tables will show it), or choose another part.",
                )
    distiller = config.distiller._target_ if stage.has("distiller") else None
    check_combination(
        config,
        target_of(config.objective._target_, "objective"),
        target_of(distiller, "distiller") if distiller else None,
    )


def _with_teacher(stage: Stage, names: list[str]) -> Stage:
    """The stage with where its distiller's teacher comes from, among the stages `names` or runs.

    Raises:
        ConfigError: a teacher that means nothing, or of a stage that does not come before.
    """
    name, teacher = stage.name, stage.config.distiller.get("teacher")
    if copies_student(stage):
        if teacher is not None and teacher not in names:
            raise ConfigError(
                f"distiller.teacher={teacher} means nothing to the distiller of stage '{name}': "
                "its teacher begins as a copy of the student.",
                "Leave it out, or choose distiller=offline_teacher.",
            )
        return stage
    if teacher is None:
        return stage
    if teacher in names[: names.index(name)]:
        return replace(stage, teacher_stage=str(teacher))
    if teacher in names or teacher == "teacher":
        raise ConfigError(
            f"Stage '{name}' of {stage.config.method.name} wants its teacher from stage "
            f"'{teacher}', which does not come before it.",
            "Name a finished run: distiller.teacher=RUN (harness list runs), or use method=mskd.",
        )
    return replace(stage, teacher_run=str(teacher))


def _check_views(stage: Stage) -> None:
    """Whether the parts of a stage get the part views that they look at, and those are looked at.

    Raises:
        ConfigError: they do not, or they are not; with the reason.
    """
    config = stage.config
    views = config.backbone.get("views")
    if views is None or isinstance(views, str):
        return  # a backbone with views of its own
    parts = count_parts(views)
    kind = target_of(config.objective._target_, "objective")
    least = getattr(kind, "min_views", 1)
    if parts + 1 < least:
        raise ConfigError(
            f"{kind.__name__} needs {least - 1} part view or more, but "
            f"backbone.views={list(views)}.",
            "Set backbone.views=[global,upper,lower], or choose another objective.",
        )
    labels_by = config.labeler.get("part_weight") or 0.0
    if labels_by and parts == 0:
        raise ConfigError(
            f"labeler.part_weight={labels_by} needs part views, but "
            f"backbone.views={list(views)} has none.",
            "Set labeler.part_weight=0, or backbone.views=[global,upper,lower].",
        )
    if parts * labels_by >= 1:
        raise ConfigError(
            f"labeler.part_weight={labels_by} for each of {parts} part views leaves nothing to the "
            "global one.",
            f"Set labeler.part_weight below {1 / parts:g}.",
        )
    labeler = target_of(config.labeler._target_, "labeler")
    looks = getattr(labeler, "uses_parts", None)
    unseen = config.objective.get("part_weight") == 0 and not (looks and looks(config.labeler))
    if parts and unseen and not stage.has("distiller"):  # a teacher may have views to be followed
        raise ConfigError(
            f"backbone.views={list(views)}, but nothing looks at the parts: "
            "objective.part_weight=0, and the labeler looks at the global view.",
            "Set objective.part_weight=0.2, say, or backbone.views=[global].",
        )


def _check_schedule(config: DictConfig) -> None:
    """Whether a labeler that goes on from its last labels is asked often enough to do so."""
    least = getattr(target_of(config.labeler._target_, "labeler"), "min_calls", 1)
    train = config.train
    if sum(label_schedule(train.label_every, train.epochs)) < min(least, train.epochs):
        raise ConfigError(
            f"train.label_every={train.label_every} makes labels once in {train.epochs} epochs, "
            f"but {config.labeler._target_.rsplit('.', 1)[-1]} needs {least} times or more.",
            "Make them more often, or set shares of the epochs: train.label_every=[0.36,0.036].",
        )


def _unknown(changes: DictConfig, config: DictConfig) -> Iterator[str]:
    """Dotted keys of `changes` that `config` does not have."""
    for name, value in changes.items_ex(resolve=False):
        key = str(name)
        if key not in config:
            yield key
        elif isinstance(value, DictConfig) and isinstance(config[key], DictConfig):
            yield from (f"{key}.{inner}" for inner in _unknown(value, config[key]))


def _keys(config: DictConfig, sections: tuple[str, ...]) -> list[str]:
    return [f"{s}.{key}" for s in sections if config.get(s) is not None for key in config[s]]


def _near(key: str, known: list[str]) -> str:
    hint = did_you_mean(key, known)
    return hint if hint.startswith("Did") else "See harness run … --cfg job."
