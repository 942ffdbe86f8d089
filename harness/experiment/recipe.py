"""From a composed configuration to a recipe: the stages to run, all checked before any work.

The stages of a method run in order. Each takes the parts and settings at the top of the
configuration and changes those that it names:
`stages: {teacher: {distiller: null}, student: {train: {warmup_epochs: 1}}}`. A part with another
`_target_` replaces the one at the top, with options of its own. With `init: STAGE` a stage starts
from the network of an earlier stage, with a new optimizer and a schedule of its own; with
`init: [STAGE, STAGE]` the student starts from the first, and its peer from the second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.core.errors import ConfigError, did_you_mean, first_line
from harness.core.views import POOLED, count_parts
from harness.experiment.sections import STAGE_KEYS, check_sections, check_stage
from harness.experiment.stages import PLUGS, Stage, copies_student, target_of
from harness.results.schema import stage_name_problem
from harness.training.label_schedule import label_schedule

#: parts that a stage may go without
OPTIONAL = ("labeler", "objective", "distiller")


@dataclass(frozen=True)
class Recipe:
    """What an experiment runs: its stages in order. Without stages, the backbone is only tested."""

    method: str
    uses_cameras: bool
    stages: tuple[Stage, ...]


def make_recipe(config: DictConfig) -> Recipe:
    """Check a composed configuration and lay out its stages.

    A stage whose network no later stage needs is left out, except for the last one: with
    `distiller.teacher=RUN`, MSKD's own teacher stage is not run.

    Raises:
        ConfigError: unknown keys, values out of range, parts that cannot be combined, or a stage
            or teacher that does not exist.
    """
    check_sections(config)
    names = [str(name) for name in config.stages or {}]
    if not names:
        _check_untrained(config)
    for name in names:
        if problem := stage_name_problem(name):
            raise ConfigError(f"stages.{name} cannot be the name of a stage: {problem}.")
    stages = [_stage(config, name, names) for name in names]
    needed: list[Stage] = []
    for stage in reversed(stages):
        if stage is stages[-1] or any(stage.name in later.needs for later in needed):
            needed.insert(0, stage)
    return Recipe(str(config.method.name), bool(config.method.uses_cameras), tuple(needed))


def _check_untrained(config: DictConfig) -> None:
    """Refuse parts of a method without stages: they would do nothing."""
    for part in ("labeler", "objective", "distiller"):
        target = config[part].get("_target_")
        if target is not None:
            raise ConfigError(
                f"{config.method.name} does not train: a {part} ({str(target).rsplit('.', 1)[-1]}) "
                "would do nothing.",
                f"Choose {part}=none, or a method that trains (harness list methods).",
            )


# ------------------------------------------------------------------------------- one stage


def _stage(config: DictConfig, name: str, names: list[str]) -> Stage:
    """A stage with its complete configuration and its teacher."""
    changes = OmegaConf.create({}) if config.stages[name] is None else config.stages[name]
    if not isinstance(changes, DictConfig):
        raise ConfigError(f"stages.{name}={changes!s} must hold keys and values.")
    changes, init = _without_init(changes, name, names)
    config = _replaced(config, changes)
    _check_changes(changes, config, name)
    try:
        merged = OmegaConf.merge(config, changes)
    except OmegaConfBaseException as error:
        raise ConfigError(f"stages.{name}: {first_line(error)}") from error
    assert isinstance(merged, DictConfig)
    check_stage(merged, f"stages.{name}: " if changes else "")
    stage = Stage(name, merged, init_stages=init)
    _check_parts(stage)
    _check_views(stage)
    _check_schedule(merged)
    if stage.has("distiller"):
        return _with_teacher(stage, names)
    if merged.train.warmup_epochs:
        own = f"stages.{name}." if OmegaConf.select(changes, "train.warmup_epochs") else ""
        raise ConfigError(
            f"stages.{name} has {merged.train.warmup_epochs} warm-up epochs, but no distiller "
            "whose teacher could label the images.",
            f"Choose distiller=offline_teacher or {own}train.warmup_epochs=0, or a variant of the "
            "method (harness list methods).",
        )
    return stage


def _without_init(
    changes: DictConfig, name: str, names: list[str]
) -> tuple[DictConfig, tuple[str, ...]]:
    """A stage's changes to the configuration, and the earlier stages in `names` of its `init`."""
    init, earlier = changes.get("init"), names[: names.index(name)]
    given = tuple(init) if isinstance(init, ListConfig) else (init,) if init is not None else ()
    for one in given:
        if one not in earlier:
            raise ConfigError(
                f"stages.{name}.init={one} is no earlier stage of this method.",
                f"Earlier stages: {', '.join(earlier) or 'none'}. init=RUN starts from a finished "
                "run.",
            )
    return OmegaConf.masked_copy(changes, [str(key) for key in changes if key != "init"]), given


def stage_config(config: DictConfig, changes: Mapping[str, Any] | None) -> DictConfig:
    """The whole configuration of a stage of a finished run, whose `changes` were checked."""
    own = OmegaConf.create(dict(changes or {}))
    complete = OmegaConf.merge(_replaced(config, own), own)
    assert isinstance(complete, DictConfig)
    return complete


def _replaced(config: DictConfig, changes: DictConfig) -> DictConfig:
    """The configuration with parts of another class, where `changes` name one."""
    others = [
        str(part)
        for part, value in changes.items()
        if isinstance(value, DictConfig)
        and str(part) in PLUGS
        and value.get("_target_") not in (None, (config.get(part) or {}).get("_target_"))
    ]
    config = OmegaConf.masked_copy(config, [str(key) for key in config if key not in others])
    for part in others:
        config[part] = changes[part]
    return config


def _check_changes(changes: DictConfig, config: DictConfig, name: str) -> None:
    """Refuse keys that a stage cannot change, and keys that do not exist."""
    hints = {str(k): did_you_mean(str(k), STAGE_KEYS) for k in changes if k not in STAGE_KEYS}
    hints |= {
        key: f"All stages share {key}."
        for key in ("train.precision", "train.compile", "images.height", "images.width")
        if OmegaConf.select(changes, key) is not None
    }
    for key, hint in hints.items():
        raise ConfigError(f"stages.{name}.{key}: a stage cannot change that.", hint)
    for part, value in changes.items():
        if not (isinstance(value, DictConfig) or (value is None and part in OPTIONAL)):
            raise ConfigError(
                f"stages.{name}.{part!s}={value} must hold keys and values.",
                f"Change one of them: stages.{name}.{part!s}.KEY=…",
            )
    for key in _unknown(changes, config):
        known = [f"{s}.{k}" for s in STAGE_KEYS if config.get(s) is not None for k in config[s]]
        hint = did_you_mean(key, known)
        near = hint if hint.startswith("Did") else "See harness run … --cfg job."
        raise ConfigError(f"stages.{name}.{key}: there is no such option.", near)


def _unknown(changes: DictConfig, config: DictConfig) -> Iterator[str]:
    """Dotted keys of `changes` that `config` does not have."""
    for name, value in changes.items_ex(resolve=False):
        key = str(name)
        if key not in config:
            yield key
        elif isinstance(value, DictConfig) and isinstance(config[key], DictConfig):
            yield from (f"{key}.{inner}" for inner in _unknown(value, config[key]))


def _check_parts(stage: Stage) -> None:
    """Check that a stage has a labeler and an objective, and that its parts can be combined."""
    config = stage.config
    for part in ("labeler", "objective"):
        if not stage.has(part):
            raise ConfigError(
                f"{config.method.name} trains (stage '{stage.name}') but has {part}=none.",
                f"Choose one: harness list {part}s.",
            )
    kinds = {part: _kind(config, part) for part in PLUGS if stage.has(part)}
    for part, kind in kinds.items():
        needs = getattr(kind, "needs_cameras", None)
        if needs is not None and needs(config[part]) and not config.method.uses_cameras:
            raise ConfigError(
                f"{kind.__name__} needs cameras, but method.uses_cameras is false.",
                "Set method.uses_cameras=true (tables will show it), or choose another part.",
            )
    objective, distiller = kinds["objective"], kinds.get("distiller")
    _check_pooled(config, objective, distiller)
    _check_joint(config, kinds)
    classifies = getattr(objective, "has_classifier", False)
    if getattr(distiller, "needs_classifier", False) and not classifies:
        raise ConfigError(
            f"{_name(distiller)} needs class scores, but {_name(objective)} has no classifier.",
            "Choose objective=softmax_triplet, or another distiller.",
        )


def _check_joint(config: DictConfig, kinds: Mapping[str, Any]) -> None:
    """Check that a stage with joint batches has parts for them."""
    if config.batch.domain_norms and not config.batch.joint:
        raise ConfigError(
            "batch.domain_norms=true has no effect without batch.joint=true.", "Set both."
        )
    if not config.batch.joint:
        return
    if not getattr(kinds["objective"], "accepts_source", False):
        raise ConfigError(
            f"batch.joint=true, but {_name(kinds['objective'])} does not accept a labeled source.",
            "Choose objective=hybrid_memory or objective=softmax_triplet.",
        )
    if "distiller" in kinds:
        raise ConfigError(
            f"batch.joint=true cannot be combined with {_name(kinds['distiller'])}.",
            "Choose distiller=none, or train on the source in a stage of its own.",
        )
    if getattr(kinds["labeler"], "reads_identities", False):
        raise ConfigError(
            f"batch.joint=true, but {_name(kinds['labeler'])} trains on the source alone.",
            "Choose another labeler, or batch.joint=false.",
        )


def _check_pooled(config: DictConfig, objective: Any, distiller: Any) -> None:
    """Check the view `pooled`: only some objectives use it, and it is not a part of the image."""
    views = list(config.backbone.get("views") or [])
    takes = getattr(objective, "needs_pooled", None)
    wanted = takes is not None and takes(config.objective)
    if wanted and (not views or views[-1] != POOLED):
        raise ConfigError(
            f"objective.before_neck=true needs the view '{POOLED}', but backbone.views={views}.",
            f"Set backbone.views=[{','.join([*views, POOLED])}], or objective.before_neck=false.",
        )
    if POOLED in views and not wanted:
        raise ConfigError(
            f"backbone.views={views}, but {_name(objective)} does not use '{POOLED}'.",
            f"Set backbone.views=[{','.join(view for view in views if view != POOLED)}].",
        )
    if not wanted:
        return
    as_parts = {"labeler.part_weight": 0.0, "labeler.views": "global"}
    if distiller is not None and not getattr(distiller, "needs_classifier", False):
        as_parts["distiller.part_weight"] = 0.0  # the others compare scores
    for key, instead in as_parts.items():
        value = OmegaConf.select(config, key)
        if value is not None and value != instead:
            raise ConfigError(
                f"{key}={value} cannot be combined with the view '{POOLED}', which is no part.",
                f"Set {key}={instead}.",
            )


def _with_teacher(stage: Stage, names: list[str]) -> Stage:
    """The stage with the source of its teacher: an earlier stage in `names`, or a run."""
    name, teacher = stage.name, stage.config.distiller.get("teacher")
    if copies_student(stage):
        if teacher is not None and teacher not in names:
            raise ConfigError(
                f"distiller.teacher={teacher} has no effect on the distiller of stage '{name}': "
                "its teacher starts as a copy of the student.",
                "Leave it out, or choose distiller=offline_teacher.",
            )
        return stage
    if teacher is None:
        return stage
    if teacher in names[: names.index(name)]:
        return replace(stage, teacher_stage=str(teacher))
    if teacher in names or teacher == "teacher":
        raise ConfigError(
            f"Stage '{name}' of {stage.config.method.name} needs a teacher from stage "
            f"'{teacher}', which does not come before it.",
            "Name a finished run: distiller.teacher=RUN (harness list runs), or use method=mskd.",
        )
    return replace(stage, teacher_run=str(teacher))


def _check_views(stage: Stage) -> None:
    """Check that required part views exist and that none is unused."""
    config = stage.config
    views = config.backbone.get("views")
    if views is None or isinstance(views, str):
        return  # a backbone with views of its own
    parts = count_parts(views)
    objective, labeler = _kind(config, "objective"), _kind(config, "labeler")
    min_parts = getattr(objective, "min_views", 1) - 1
    if parts < min_parts:
        raise ConfigError(
            f"{objective.__name__} needs {min_parts} part view{'s' if min_parts > 1 else ''} or "
            f"more, but backbone.views={list(views)}.",
            "Set backbone.views=[global,upper,lower], or choose another objective.",
        )
    weight = config.labeler.get("part_weight") or 0.0
    if weight and parts == 0:
        raise ConfigError(
            f"labeler.part_weight={weight} needs part views, but backbone.views={list(views)} has "
            "none.",
            "Set labeler.part_weight=0, or backbone.views=[global,upper,lower].",
        )
    if parts * weight >= 1:
        raise ConfigError(
            f"labeler.part_weight={weight} for each of {parts} part views leaves no weight for "
            "the global view.",
            f"Set labeler.part_weight below {1 / parts:g}.",
        )
    labels_parts = getattr(labeler, "uses_parts", None)
    labelled = labels_parts is not None and labels_parts(config.labeler)
    unused = config.objective.get("part_weight") == 0 and not labelled
    if parts and unused and not stage.has("distiller"):  # a teacher may train the parts
        raise ConfigError(
            f"backbone.views={list(views)}, but nothing uses the part views: "
            "objective.part_weight=0, and the labeler uses the global view only.",
            "Set objective.part_weight=0.2, say, or backbone.views=[global].",
        )


def _check_schedule(config: DictConfig) -> None:
    """Check that a labeler that continues from its last labels is called often enough."""
    min_calls = getattr(_kind(config, "labeler"), "min_calls", 1)
    train = config.train
    if sum(label_schedule(train.label_every, train.epochs)) < min(min_calls, train.epochs):
        raise ConfigError(
            f"train.label_every={train.label_every} makes labels once in {train.epochs} epochs, "
            f"but {config.labeler._target_.rsplit('.', 1)[-1]} needs {min_calls} times or more.",
            "Make them more often, or set fractions of the epochs: train.label_every=[0.36,0.036].",
        )


def _kind(config: DictConfig, part: str) -> Any:
    """The class of a part, or the function that builds it."""
    return target_of(config[part]._target_, part)


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))
