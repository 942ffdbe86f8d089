"""From a composed configuration to a recipe: the stages to run, all checked before any work.

A method's `stages` run in order. Each takes the parts at the top of the configuration and changes
what it names: `stages: {teacher: {distiller: null}, student: {train: {warmup_epochs: 1}}}`.
"""

from __future__ import annotations

import copy
import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.crossings import check_crossing
from harness.errors import ConfigError, HarnessError, did_you_mean, first_line
from harness.evaluation.label_free import read_label_free
from harness.images.samplers import SAMPLERS
from harness.images.settings import make_augment
from harness.interfaces import Backbone, Distiller, Objective, PseudoLabeler
from harness.optimizers import check_optimizer
from harness.parallel.checks import check_pieces
from harness.rhythm import check_label_every, labellings
from harness.tuned import check_tuned
from harness.views import count_parts

# Hydra logs what it then raises; once, in our words, is enough
logging.getLogger("hydra.utils").addHandler(logging.NullHandler())

#: the parts and settings that a stage may change
STAGE_KEYS = (
    "backbone", "labeler", "objective", "distiller", "train", "batch", "optimizer", "neighbours",
)  # fmt: skip
TOP_KEYS = (
    *STAGE_KEYS, "seed", "protocol", "images", "evaluation", "selection", "method", "stages",
    "dataset", "data", "init", "store", "name", "force", "overwrite", "log", "device", "threads",
    "tuned",
)  # fmt: skip
PLUGS: dict[str, type] = {
    "backbone": Backbone, "labeler": PseudoLabeler, "objective": Objective, "distiller": Distiller,
}  # fmt: skip
SECTIONS = ("protocol", "images", "evaluation", "method", "dataset", "data")
SELECTIONS = ("last", "label_free", "oracle")
POSITIVE = ("images.height", "images.width", "batch.identities", "batch.images",
            "train.epochs", "train.iterations", "train.warmup_iterations", "optimizer.step",
            "evaluation.every")  # fmt: skip
FROM_ZERO = ("batch.samples_per_bn", "train.warmup_epochs", "images.pad", "seed", "threads",
             "optimizer.warmup")  # fmt: skip
TRUTHS = ("method.uses_cameras", "evaluation.rerank", "evaluation.keep_features", "force")
STAGE_TRUTHS = ("optimizer.nesterov", "optimizer.renew")
#: key → (lowest, highest); whether the lowest itself is allowed
RANGES = {
    "optimizer.lr": (0.0, math.inf, False),
    "optimizer.gamma": (0.0, math.inf, False),
    "optimizer.weight_decay": (0.0, math.inf, True),
    "optimizer.momentum": (0.0, 1.0, True),
    "optimizer.warmup_start": (0.0, 1.0, True),
    "optimizer.trunk_rate": (0.0, math.inf, True),
    "images.flip": (0.0, 1.0, True),
    "images.erase": (0.0, 1.0, True),
    "images.blur": (0.0, 1.0, True),
}


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
        raise ConfigError(f"stages.{name}={changes!s} must hold keys and values.")
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
    _check_numbers(merged, where)
    check_pieces(merged.batch, merged.train.get("micro_batch", "auto"), where)
    stage = Stage(name, merged)
    for part in ("labeler", "objective"):
        if not stage.has(part):
            raise ConfigError(
                f"{config.method.name} trains (stage '{name}') but has {part}=none.",
                f"Choose one: harness list {part}s.",
            )
    for part in PLUGS:
        if stage.has(part):
            kind = _target(merged[part]._target_, part)
            needs = getattr(kind, "needs_cameras", None)
            if needs is not None and needs(merged[part]) and not uses_cameras:
                raise ConfigError(
                    f"{kind.__name__} needs cameras, but method.uses_cameras is false.",
                    "Set method.uses_cameras=true (tables will show it), or choose another part.",
                )
    distiller = merged.distiller._target_ if stage.has("distiller") else None
    check_crossing(
        merged,
        _target(merged.objective._target_, "objective"),
        _target(distiller, "distiller") if distiller else None,
    )
    _check_views(stage)
    _check_rhythm(merged)
    if not stage.has("distiller"):
        if merged.train.warmup_epochs:
            own = OmegaConf.select(changes, "train.warmup_epochs") is not None
            raise ConfigError(
                f"stages.{name} has {merged.train.warmup_epochs} warm-up epochs but no distiller "
                "whose teacher could label them.",
                f"Choose distiller=offline_teacher or {f'stages.{name}.' if own else ''}"
                "train.warmup_epochs=0, or a variant of the method (harness list methods).",
            )
        return stage
    teacher = merged.distiller.get("teacher")
    if _copies_student(stage):
        if teacher is not None and teacher not in names:
            raise ConfigError(
                f"distiller.teacher={teacher} means nothing to the distiller of stage '{name}': "
                "its teacher begins as a copy of the student.",
                "Leave it out, or choose distiller=offline_teacher.",
            )
        return stage
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


def _copies_student(stage: Stage) -> bool:
    """Whether the stage's distiller teaches with a copy of the student."""
    kind = _target(stage.config.distiller._target_, "distiller")
    return getattr(kind, "copies_student", False) is True


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
    kind = _target(config.objective._target_, "objective")
    least = getattr(kind, "least_views", 1)
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
    labeler = _target(config.labeler._target_, "labeler")
    looks = getattr(labeler, "looks_at_parts", None)
    unseen = config.objective.get("part_weight") == 0 and not (looks and looks(config.labeler))
    if parts and unseen and not stage.has("distiller"):  # a teacher may have views to be followed
        raise ConfigError(
            f"backbone.views={list(views)}, but nothing looks at the parts: "
            "objective.part_weight=0, and the labeler looks at the global view.",
            "Set objective.part_weight=0.2, say, or backbone.views=[global].",
        )


def _check_rhythm(config: DictConfig) -> None:
    """Whether a labeler that goes on from its last labels is asked often enough to do so."""
    least = getattr(_target(config.labeler._target_, "labeler"), "least_calls", 1)
    train = config.train
    if sum(labellings(train.label_every, train.epochs)) < min(least, train.epochs):
        raise ConfigError(
            f"train.label_every={train.label_every} makes labels once in {train.epochs} epochs, "
            f"but {config.labeler._target_.rsplit('.', 1)[-1]} needs {least} times or more.",
            "Make them more often, or set shares of the epochs: train.label_every=[0.36,0.036].",
        )


def _target(target: str, part: str) -> Any:
    """The class or function that builds a part."""
    try:
        found = get_object(target)
    except Exception as error:
        raise ConfigError(
            f"{part}._target_={target} cannot be imported: {' '.join(str(error).split())}"
        ) from error
    if isinstance(found, type) and not issubclass(found, PLUGS[part]):
        raise ConfigError(f"{part}._target_={target} is no {PLUGS[part].__name__}.")
    return found


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


def _check_values(config: DictConfig) -> None:
    for key in config:
        if key not in TOP_KEYS:
            raise ConfigError(f"There is no option '{key!s}'.", did_you_mean(str(key), TOP_KEYS))
    try:
        missing = sorted(OmegaConf.missing_keys(config))
    except OmegaConfBaseException as error:  # ${…} of what is not there
        raise ConfigError(
            f"{error.full_key}: {first_line(error)}.", f"Give it: {error.full_key}=VALUE."
        ) from error
    if missing:
        raise ConfigError(
            f"No value was given for {', '.join(missing)}.", f"Give one: {missing[0]}=VALUE."
        )
    check_tuned(config)
    for key in TOP_KEYS[: TOP_KEYS.index("seed")] + SECTIONS:
        if not isinstance(config.get(key), DictConfig):
            raise ConfigError(
                f"{key}={config.get(key)} must hold keys and values.", f"Change one: {key}.KEY=…"
            )
    if config.selection not in SELECTIONS:
        raise ConfigError(
            f"selection={config.selection} is unknown.",
            did_you_mean(str(config.selection), SELECTIONS),
        )
    read_label_free(config)  # refuses what is unknown
    _check_truths(config, TRUTHS)
    _check_numbers(config)
    make_augment(config.images)  # refuses what is out of range


def _check_truths(config: DictConfig, keys: tuple[str, ...], where: str = "") -> None:
    for key in keys:
        value = OmegaConf.select(config, key)
        if not isinstance(value, bool):
            raise ConfigError(f"{where}{key}={value} must be true or false.")


def _check_numbers(config: DictConfig, where: str = "") -> None:
    sampler = config.batch.get("sampler")
    if sampler not in SAMPLERS:
        raise ConfigError(
            f"{where}batch.sampler={sampler} is unknown.", did_you_mean(str(sampler), SAMPLERS)
        )
    if SAMPLERS[sampler].needs_cameras and not config.method.uses_cameras:
        raise ConfigError(
            f"{where}batch.sampler={sampler} needs cameras, but method.uses_cameras is false.",
            "Set method.uses_cameras=true (tables will show it), or batch.sampler=identity.",
        )
    for key in (*POSITIVE, *FROM_ZERO):
        value = OmegaConf.select(config, key)
        if (key, value) == ("train.iterations", "auto"):
            continue
        least = 1 if key in POSITIVE else 0
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{where}{key}={value} must be a whole number, {least} or more.")
    for key, (low, high, closed) in RANGES.items():
        value = OmegaConf.select(config, key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and low <= value <= high) or (
            value == low and not closed
        ):
            limits = f"{low:g} or more" if closed else f"above {low:g}"
            limits = limits if high == math.inf else f"from {low:g} to {high:g}"
            raise ConfigError(f"{where}{key}={value} must be a number, {limits}.")
    _check_truths(config, STAGE_TRUTHS, where)
    check_optimizer(config.optimizer, where)
    check_label_every(config.train.label_every, where)
    batch, group = config.batch.identities * config.batch.images, config.batch.samples_per_bn
    if group == 1 or batch < 2:
        raise ConfigError(
            f"{where}Batches of {batch} with batch.samples_per_bn={group}: a single image has no "
            "statistics.",
            "Use batch.samples_per_bn=0 (whole batch) or 2 and more, and batches of 2 and more.",
        )
    if group and batch % group and batch > group:
        raise ConfigError(
            f"{where}batch.samples_per_bn={group} does not divide the batch of {batch} images "
            f"({config.batch.identities} × {config.batch.images}).",
            "Choose a divisor, or 0 for the whole batch.",
        )


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
        raise ConfigError(f"{what} cannot be built: {first_line(root)}", _options(node)) from error


def _options(node: DictConfig) -> str:
    """What a part can be told, if its config tells it something else."""
    try:
        known = list(inspect.signature(get_object(node._target_)).parameters)
    except Exception:  # the error at hand says more than this one
        return ""
    for key in node:
        if not str(key).startswith("_") and key not in known:
            return did_you_mean(str(key), known)
    return ""


def build_backbone(node: DictConfig) -> Backbone:
    """The network, with its initial weights."""
    return build(node, "backbone")


def build_labeler(stage: Stage) -> PseudoLabeler:
    """The stage's labeler."""
    return build(stage.config.labeler, "labeler")


def build_objective(stage: Stage) -> Objective:
    """The stage's objective."""
    return build(stage.config.objective, "objective")


def build_distiller(
    stage: Stage,
    teacher: Backbone | None,
    student: Backbone,
    peer: Callable[[], Backbone] | None = None,
) -> Distiller | None:
    """The stage's distiller around its teacher (or a copy of the student), or None.

    Args:
        peer: makes further students for those that train several; copies of the student if None.
    """
    if not stage.has("distiller"):
        return None
    extra: dict[str, Any] = {}
    if _copies_student(stage):
        teacher = copy.deepcopy(student)
    if teacher is not None:
        extra["teacher"] = teacher
    kind = _target(stage.config.distiller._target_, "distiller")
    if peers := getattr(kind, "peers", 0):
        make = peer or (lambda: copy.deepcopy(student))
        extra["peers"] = [make() for _ in range(peers)]
    return build(stage.config.distiller, "distiller", **extra)
