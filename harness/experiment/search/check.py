"""A space against the configuration that it changes: all that is nonsense is refused beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError, HarnessError, did_you_mean
from harness.experiment.model_loading import check_parts
from harness.experiment.recipe import make_recipe
from harness.experiment.search.space import Param, Space, Values
from harness.experiment.stages import build_labeler, build_objective

#: what is no hyper-parameter: it says what is asked, not how it is learnt
NOT_SEARCHED = (
    "seed", "dataset", "data", "store", "name", "force", "device", "threads", "evaluation",
    "selection", "method", "protocol", "search", "tuned",
)  # fmt: skip
#: words that stand for a number
WORDS = {("train.iterations", "auto")}
#: values → the configuration with them
Compose = Callable[[Values], DictConfig]


def settle(space: Space, compose: Compose, groups: Mapping[str, list[str]]) -> Space:
    """The space with whole numbers where the configuration has them.

    Args:
        compose: makes a configuration. groups: those that may be searched, with their options.

    Raises:
        ConfigError: a key that does not exist or is not to be searched, values of another kind than
            the default, values that the harness or a part refuses; names where to mend it.
    """
    settled = Space(tuple(_typed(param, space, compose, groups) for param in space))
    for param in settled:
        for value in param.ends():
            _try(param, value, settled, compose)
    return settled


def defaults(space: Space, base: DictConfig, chosen: Mapping[str, Any]) -> Values:
    """What the configuration has for each searched key, as far as it is searched there.

    Args:
        chosen: group → option.

    Raises:
        ConfigError: a default that the space does not hold.
    """
    values: Values = {}
    for param in space:
        value = chosen.get(param.key, _plain(base, _of_stage(param.key, base)))
        if space.active({**values, param.key: value}).keys() <= values.keys():
            continue
        if not param.holds(value):
            raise param.refuse(
                f"the default, {value!r}, is not among what is searched, and the search begins "
                "with it.",
                "Widen the range, or set search.warm_start=false.",
            )
        values[param.key] = float(value) if _real(param) else value
    return values


def _of_stage(key: str, config: DictConfig) -> str:
    """Where the value of a key stands; a stage has what it does not name from the whole."""
    parts = key.split(".", 2)
    if len(parts) == 3 and parts[0] == "stages" and parts[1] in (config.stages or {}):
        own = OmegaConf.select(config, key, default=_NOTHING)
        return parts[2] if own is _NOTHING else key
    return key


_NOTHING = object()


def _real(param: Param) -> bool:
    return param.choices is None and not param.whole


def _plain(config: DictConfig, key: str) -> Any:
    value = OmegaConf.select(config, key, default=None)
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def condition(param: Param, space: Space) -> Values:
    """The first values under which a key is searched."""
    needed: Values = {}
    by_key = {p.key: p for p in space}
    for key, wanted in param.when.items():
        needed |= condition(by_key[key], space)
        needed[key] = next(value for value in wanted if by_key[key].holds(value))
    return needed


def _typed(param: Param, space: Space, compose: Compose, groups: Mapping[str, list[str]]) -> Param:
    top = param.key.split(".")[0]
    if top in NOT_SEARCHED:
        raise param.refuse(f"{top} is not searched: it says what is asked, not how it is learnt.")
    if param.key in groups:
        return _group(param, groups[param.key])
    config = compose(condition(param, space))
    key = _of_stage(param.key, config)
    if key not in (known := list(_keys(config))):
        raise param.refuse(
            "there is no such option" + (" under its conditions." if param.when else "."),
            did_you_mean(param.key, known),
        )
    value = _plain(config, key)
    if isinstance(value, dict):
        raise param.refuse("that is a section, not a value.", "Name one of its keys.")
    if param.choices is not None:
        for choice in param.choices:
            if not _alike(choice, value) and (param.key, choice) not in WORDS:
                raise param.refuse(
                    f"{choice!r} is no {_kind(value)}, and the default, {value!r}, is one."
                )
        return param
    if value is not None and not _is_number(value):
        raise param.refuse(
            f"the default, {value!r}, is no number, so it has no range.", "Give choices."
        )
    ends = [v for v in (param.low, param.high, param.step) if v is not None]
    whole = all(isinstance(v, int) for v in ends)
    if isinstance(value, int) and not whole:
        raise param.refuse(f"the default, {value}, is a whole number; low, high and step must be.")
    return replace(param, whole=whole and not isinstance(value, float))


def _group(param: Param, options: list[str]) -> Param:
    if param.choices is None:
        raise param.refuse("that is a part, not a number.", f"choices: {', '.join(options)}.")
    for choice in param.choices:
        if choice not in options:
            raise param.refuse(
                f"there is no {param.key} '{choice}'.", did_you_mean(str(choice), options)
            )
    return param


def _keys(config: DictConfig) -> Iterator[str]:
    """All dotted keys, of sections too."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        if isinstance(node, dict):
            for key, inner in node.items():
                yield f"{prefix}{key}"
                yield from walk(inner, f"{prefix}{key}.")

    yield from walk(OmegaConf.to_container(config, resolve=False), "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _alike(value: Any, default: Any) -> bool:
    """Whether a value is of the default's kind."""
    if default is None or value is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, int):
        return isinstance(value, int)
    if isinstance(default, float):
        return _is_number(value)
    return isinstance(value, type(default))


def _kind(value: Any) -> str:
    kinds: list[tuple[Any, str]] = [
        (bool, "true or false"), (int, "whole number"), (float, "number"), (list, "list"),
        (str, "word"),
    ]  # fmt: skip
    return next((word for kind, word in kinds if isinstance(value, kind)), "value of that kind")


def _try(param: Param, value: Any, space: Space, compose: Compose) -> None:
    """Lay out the stages with one value, all others at their defaults; build what it changes."""
    try:
        config = compose({**condition(param, space), param.key: value})
        recipe = make_recipe(config)
        for stage in recipe.stages:
            build_labeler(stage)
            build_objective(stage)
        if param.key.startswith(("distiller", "backbone", "stages")):
            config = config.copy()
            if config.backbone.get("weights") is not None:
                config.backbone.weights = "none"  # they are there, whatever is searched
            check_parts(config, make_recipe(config))
    except HarnessError as error:
        raise ConfigError(
            f"search.space.{param.key}: {value!r} is refused: {error.cause}",
            f"{error.hint} Mend {param.where}.".strip(),
        ) from error
