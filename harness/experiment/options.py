"""Options of a part are of the kind that its signature says: `k1=2.5` or `hard=maybe` is none."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from harness.core.errors import ConfigError

KINDS: dict[type, str] = {bool: "true or false", int: "a whole number", float: "a number"}
#: what messages call types; a str in a signature refuses nothing: YAML reads some words as numbers
NAMES: dict[type, str] = KINDS | {str: "a word"}


def check_options(build: Callable[..., Any], options: Mapping[str, Any], section: str) -> None:
    """Whether values fit the annotations of what is built from them, where those are plain.

    Args:
        build: the class or function. options: its keyword arguments, as a configuration has them.
        section: their place in the configuration ("labeler").

    Raises:
        ConfigError: one does not; it is named, with the value that is usual.
    """
    try:
        parameters = inspect.signature(build, eval_str=True).parameters
    except Exception:  # annotations that cannot be read here say nothing about the values
        return
    for key, value in options.items():
        wanted = _plain(parameters[key].annotation) if key in parameters else ()
        if wanted:
            check_kind(f"{section}.{key}", value, wanted, parameters[key].default)


def check_kind(key: str, value: Any, wanted: tuple[type, ...], usual: Any) -> None:
    """Whether a value is of one of several plain types; a whole number is a number, too.

    Raises:
        ConfigError: it is not.
    """
    if type(value) in wanted or (float in wanted and type(value) is int):
        return
    named = [NAMES.get(kind, kind.__name__) for kind in wanted if kind is not type(None)]
    shown = "null" if value is None else value
    known = usual is not inspect.Parameter.empty and usual is not None
    raise ConfigError(
        f"{key}={shown} must be {' or '.join(named)}.", f"Usual: {usual}." if known else ""
    )


def _plain(hint: Any) -> tuple[type, ...]:
    """The types of an annotation made of truths and numbers alone (and None); () of any other."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    members = typing.get_args(hint) if union else (hint,)
    plain = all(member in KINDS or member is type(None) for member in members)
    return members if plain and hint is not type(None) else ()
