"""A stage of a recipe, and how its parts are built from its configuration."""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from harness.core.errors import ConfigError, HarnessError, did_you_mean, first_line
from harness.core.interfaces import Backbone, Distiller, Objective, PseudoLabeler
from harness.experiment.options import check_options

# Hydra logs errors that it also raises
logging.getLogger("hydra.utils").addHandler(logging.NullHandler())

PLUGS: dict[str, type] = {
    "backbone": Backbone, "labeler": PseudoLabeler, "objective": Objective, "distiller": Distiller,
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A training phase: its name, its complete configuration, and the source of its teacher.

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


def target_of(target: str, part: str) -> Any:
    """The class or function that builds a part.

    Raises:
        ConfigError: it cannot be imported, or is a class of another kind.
    """
    try:
        found = get_object(target)
    except Exception as error:
        raise ConfigError(
            f"{part}._target_={target} cannot be imported: {' '.join(str(error).split())}"
        ) from error
    if isinstance(found, type) and not issubclass(found, PLUGS[part]):
        raise ConfigError(f"{part}._target_={target} is no {PLUGS[part].__name__}.")
    return found


def copies_student(stage: Stage) -> bool:
    """Whether the distiller's teacher starts as a copy of the student."""
    kind = target_of(stage.config.distiller._target_, "distiller")
    return getattr(kind, "copies_student", False) is True


def build(node: DictConfig, what: str, **extra: Any) -> Any:
    """Build a part from its configuration.

    Args:
        what: its name in messages ("labeler"). extra: arguments that no configuration can hold.

    Raises:
        ConfigError: an unknown option, or a value that the part refuses.
    """
    _check_kinds(node, what)
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


def _check_kinds(node: DictConfig, what: str) -> None:
    try:
        target = get_object(node._target_)
        given = {str(key): node[key] for key in node if not str(key).startswith("_")}
    except Exception:  # what builds the part says more about it
        return
    check_options(target, given, what.split()[0])


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
    """The stage's distiller with its teacher (or a copy of the student), or None.

    Args:
        peer: makes further students for mutual learning; default: copies of the student.
    """
    if not stage.has("distiller"):
        return None
    extra: dict[str, Any] = {}
    if copies_student(stage):
        teacher = copy.deepcopy(student)
    if teacher is not None:
        extra["teacher"] = teacher
    kind = target_of(stage.config.distiller._target_, "distiller")
    if peers := getattr(kind, "peers", 0):
        make = peer or (lambda: copy.deepcopy(student))
        extra["peers"] = [make() for _ in range(peers)]
    return build(stage.config.distiller, "distiller", **extra)
