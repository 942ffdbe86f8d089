"""A stage of a recipe, and how its parts and its data set are built from their configuration."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from harness.core.errors import ConfigError, HarnessError, first_line
from harness.core.interfaces import Backbone, Distiller, Objective, PseudoLabeler
from harness.core.options import check_options
from harness.core.preprocessing import IMAGENET, Preprocessing
from harness.data.types import Dataset, ReIDData

# Hydra logs errors that it also raises
logging.getLogger("hydra.utils").addHandler(logging.NullHandler())

PLUGS: dict[str, type] = {
    "backbone": Backbone, "labeler": PseudoLabeler, "objective": Objective, "distiller": Distiller,
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A training phase: its name, its complete configuration, and the networks that it needs.

    teacher_stage: the earlier stage of this recipe that its teacher is from. teacher_run: a
    finished run, by name or folder. init_stages: the earlier stages whose networks it starts from,
    the student from the first, its peers from the next; from the last where there are too few.
    """

    name: str
    config: DictConfig
    teacher_stage: str | None = None
    teacher_run: str | None = None
    init_stages: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """The earlier stages that it needs the networks of."""
        return (*filter(None, [self.teacher_stage]), *self.init_stages)

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
    if not callable(found) or (isinstance(found, type) and not issubclass(found, PLUGS[part])):
        raise ConfigError(f"{part}._target_={target} is no {PLUGS[part].__name__}.")
    return found


def copies_student(stage: Stage) -> bool:
    """Whether the distiller's teacher starts as a copy of the student."""
    kind = target_of(stage.config.distiller._target_, "distiller")
    return getattr(kind, "copies_student", False) is True


def build(node: DictConfig, what: str, **extra: Any) -> Any:
    """Build a part from its config, after a check of its options.

    Args:
        what: the configuration section, and what else errors should name ("dataset market1501").
        extra: arguments that are objects, in place of the options of their names.

    Raises:
        ConfigError: an unknown option, or a value that the part refuses.
    """
    try:
        options: Any = OmegaConf.to_container(node, resolve=True)
        target = get_object(node._target_)
    except Exception:  # `instantiate` names the cause
        target = None
    if callable(target):
        given = {k: v for k, v in options.items() if not k.startswith("_") and k not in extra}
        check_options(target, given, what.split()[0])
    try:
        return instantiate(node, **extra, _convert_="all")
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, HarnessError):
                raise cause from error
            cause = cause.__cause__
        root = error.__cause__ or error
        raise ConfigError(f"{what} cannot be built: {first_line(root)}") from error


def build_backbone(node: DictConfig) -> Backbone:
    """The network, with its initial weights."""
    return build(node, "backbone")


def backbone_name(node: Mapping[Any, Any]) -> str:
    """What the configuration of a backbone names: an architecture, a model of timm, or else its
    function (`vit_small_patch16_224.dino`, `resnet50`, `small`).
    """
    kind = str(node["_target_"]).rpartition(".")[2]
    return str(node.get("arch") or node.get("model") or kind)


def preprocessing(node: DictConfig) -> Preprocessing:
    """How images become the input of a backbone, without building it.

    Raises:
        ConfigError: an option has an impossible value.
    """
    found = getattr(target_of(str(node["_target_"]), "backbone"), "preprocessing", IMAGENET)
    if isinstance(found, Preprocessing):
        return found
    options: Any = OmegaConf.to_container(node, resolve=True)
    return found(**{key: value for key, value in options.items() if not key.startswith("_")})


def build_labeler(stage: Stage, identities: Tensor | None = None) -> PseudoLabeler:
    """The stage's labeler; `identities` (N,) are for one that reads those of a labeled source."""
    extra = {} if identities is None else {"identities": identities}
    return build(stage.config.labeler, "labeler", **extra)


def build_objective(stage: Stage) -> Objective:
    """The stage's objective."""
    return build(stage.config.objective, "objective")


def build_distiller(
    stage: Stage,
    teacher: Backbone | None,
    student: Backbone,
    peer: Callable[[int], Backbone] | None = None,
) -> Distiller | None:
    """The stage's distiller with its teacher (or a copy of the student), or None.

    `peer` makes the further students 1, 2, … of mutual learning; by default copies of the student.
    """
    if not stage.has("distiller"):
        return None
    if copies_student(stage):
        teacher = copy.deepcopy(student)
    extra: dict[str, Any] = {} if teacher is None else {"teacher": teacher}
    if peers := getattr(target_of(stage.config.distiller._target_, "distiller"), "peers", 0):
        make = peer or (lambda number: copy.deepcopy(student))
        extra["peers"] = [make(number) for number in range(1, peers + 1)]
    return build(stage.config.distiller, "distiller", **extra)


def load_data(config: DictConfig) -> ReIDData:
    """The images, identities and cameras of a data set; no image is decoded.

    Raises:
        ConfigError: wrong options. DataError: the data set is missing or incomplete.
    """
    return named(make_dataset(config).load(), str(config.dataset.name))


def named(data: ReIDData, name: str) -> ReIDData:
    """A data set under its `dataset.name`, unless its own names say more (`market1501_subset`)."""
    given, own = name.split("+"), [part.name for part in data.parts] or [data.name]
    pairs = zip(given, own, strict=False)
    if len(given) == len(own) and all(o == g or o.startswith(f"{g}_") for g, o in pairs):
        return data
    return replace(data, name=name)


def make_dataset(config: DictConfig) -> Dataset:
    """The loader of a data set, or a ConfigError that names a wrong option."""
    node: Any = OmegaConf.to_container(config.dataset, resolve=True)
    name, on_bad_image = node.pop("name"), node.pop("on_bad_image", "error")
    if on_bad_image not in ("error", "skip"):
        raise ConfigError(f"dataset.on_bad_image={on_bad_image} is unknown.", "Use error or skip.")
    return build(OmegaConf.create(node), f"dataset {name}")
