"""Checks of a search space against the configuration that it changes, before the first trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from harness.core.errors import HarnessError, did_you_mean
from harness.experiment.part_checks import check_parts
from harness.experiment.plan import make_plan
from harness.experiment.recipe import make_recipe
from harness.experiment.search.space import (
    Param,
    Space,
    SpaceError,
    Values,
    conditions_hold,
    is_number,
)
from harness.experiment.stages import build_labeler, build_objective

#: config groups whose options can be searched
PARTS = ("backbone", "labeler", "objective", "distiller")
#: not hyper-parameters: they define the experiment
NOT_SEARCHED = (
    "seed", "dataset", "data", "store", "name", "overwrite", "log", "device", "threads",
    "evaluation", "selection", "method", "protocol", "search", "tuned",
)  # fmt: skip
#: values → the configuration with them
Compose = Callable[[Values], DictConfig]
_MISSING = object()


def check_space(space: Space, compose: Compose) -> Space:
    """Check that every searched key exists and that its values can be run.

    Returns:
        The space, in which ranges have whole numbers where the configuration has them.

    Raises:
        ConfigError: an unknown key, a key that cannot be searched, a range for something that is
            not a number, or a value that the harness or a part refuses.
    """
    checked = Space(tuple(_typed(param, space, compose) for param in space))
    for param in checked:
        for value in param.choices or (param.low, param.high):
            _try(param, value, checked, compose)
    return checked


def defaults(space: Space, base: DictConfig, chosen: Mapping[str, Any]) -> Values:
    """The configuration's own value of each key that is searched under these values.

    Args:
        chosen: config group → option.

    Raises:
        ConfigError: the space does not contain a default.
    """
    values: Values = {}
    for param in space:
        if not conditions_hold(param, values):
            continue
        value = chosen[param.key] if param.key in chosen else _value(base, param.key)
        if not param.contains(value):
            raise SpaceError(
                param.key,
                f"the default, {value!r}, is not in the range, and the first trial is the default.",
                "Widen the range, or set search.warm_start=false.",
            )
        is_real = param.choices is None and not param.whole
        values[param.key] = float(value) if is_real else value
    return values


def _value(config: DictConfig, key: str) -> Any:
    """A key's value as plain Python, `_MISSING` if there is no such key.

    A stage inherits from the whole configuration what it does not set itself.
    """
    value = OmegaConf.select(config, key, default=_MISSING)
    section, stage, inherited = [*key.split(".", 2), "", ""][:3]
    if value is _MISSING and section == "stages" and stage in (config.stages or {}):
        value = OmegaConf.select(config, inherited, default=_MISSING)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _conditions(param: Param, space: Space) -> Values:
    """Values under which a key is searched."""
    by_key = {p.key: p for p in space}
    needed: Values = {}
    for key, wanted in param.when.items():
        needed |= _conditions(by_key[key], space)
        needed[key] = next(value for value in wanted if by_key[key].contains(value))
    return needed


def _typed(param: Param, space: Space, compose: Compose) -> Param:
    top = param.key.split(".")[0]
    if top in NOT_SEARCHED:
        raise SpaceError(param.key, f"{top} cannot be searched: it defines the experiment.")
    if param.key in PARTS:
        if param.choices is None:
            raise SpaceError(param.key, "a part has choices, not a range.")
        return param
    config = compose(_conditions(param, space))
    default = _value(config, param.key)
    if default is _MISSING:
        under = " under its conditions." if param.when else "."
        plain: Any = OmegaConf.to_container(config)
        raise SpaceError(param.key, f"there is no such option{under}",
                         did_you_mean(param.key, map(str, pd.json_normalize(plain))))  # fmt: skip
    if isinstance(default, dict):
        raise SpaceError(param.key, "this is a section, not a value.", "Name one of its keys.")
    if param.choices is not None:
        return param
    if default is not None and not is_number(default):
        raise SpaceError(param.key, f"the default, {default!r}, is not a number.",
                         "Give choices, not a range.")  # fmt: skip
    whole = all(isinstance(v, int) for v in (param.low, param.high, param.step or 1))
    if isinstance(default, int) and not whole:
        raise SpaceError(param.key, f"the default, {default}, is a whole number; low, high and "
                         "step must be whole numbers, too.")  # fmt: skip
    return param.model_copy(update={"whole": whole and not isinstance(default, float)})


def _try(param: Param, value: Any, space: Space, compose: Compose) -> None:
    """Build what a value changes, all other values at their defaults."""
    try:
        config = compose({**_conditions(param, space), param.key: value})
        recipe = make_recipe(config)
        for stage in recipe.stages:
            build_labeler(stage)
            build_objective(stage)
        if param.key.startswith(("distiller", "backbone", "stages")):
            if config.backbone.get("weights") is not None:
                config.backbone.weights = "none"  # do not load weights for a check
            check_parts(make_plan(config, str(config.train.precision)))
    except HarnessError as error:
        raise SpaceError(param.key, f"{value!r} is refused: {error.cause}", error.hint) from error
