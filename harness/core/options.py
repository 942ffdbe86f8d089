"""Options, declared once in the signature of the class or function that takes them.

    def __init__(self, eps: Annotated[float, Field(gt=0, le=1, description="radius")] = 0.6): ...

declares the kind (a number), range, meaning and default of `eps`. Checks, error messages and the
options reference derive from it. A plain type hint declares the kind alone, and a parameter without
a hint takes anything. The fields of a pydantic model are options, too.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import shlex
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import yaml

from harness.core.errors import ConfigError, Problems, did_you_mean, first_line

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

#: the default of an option that has none
REQUIRED = inspect.Parameter.empty

_WORDS: dict[Any, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path",
    types.NoneType: "null", Any: "anything",
}  # fmt: skip
_LIMITS = {
    "multiple_of": "a multiple of {}", "min_length": "{} or more entries",
    "max_length": "{} entries at most",
}  # fmt: skip
_UNIONS = (Union, types.UnionType)
_RANGE_ERRORS = (
    "greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number",
    "multiple_of", "too_short", "too_long",
)  # fmt: skip


@dataclass(frozen=True)
class Option:
    """One option of a part or of a configuration section.

    kind, range: in words ("a number", "0 < eps ≤ 1"); range is "" where every value will do.
    default: `REQUIRED` if there is none. meaning: its description, "" if it has none.
    choices: the values that it can have, if they are listed.
    """

    name: str
    kind: str
    range: str
    default: Any
    meaning: str
    choices: tuple[Any, ...] = ()


def options_of(target: Callable[..., Any]) -> list[Option]:
    """The options of a class, function or pydantic model, in the order of their declaration.

    Parameters that take objects of other classes (a distiller's teacher) are options only if they
    have a description.
    """
    return [
        Option(
            name, _kind(field.annotation), _range(name, _declared(field)), _default(field),
            meaning=field.description or "", choices=tuple(_choices(field.annotation)),
        )
        for name, field in _fields(target)[0].items()
        if field.description or _is_plain(field.annotation)
    ]  # fmt: skip


def check_options(target: Callable[..., Any], values: Mapping[str, Any], prefix: str = "") -> None:
    """Check values in plain containers against the options that `target` declares.

    Text is never read as a number, true is not 1, and nan and inf are refused. A number in place of
    text passes, since YAML turns some words into numbers. `prefix` says where the options are in
    the configuration ("labeler").

    Raises ConfigError for unknown options, and values of the wrong kind or out of range: all.
    """
    fields, open_ended = _fields(target)
    problems = Problems()
    for name, value in values.items():
        key = f"{prefix}.{name}" if prefix else name
        with problems.collecting():
            if name in fields:
                _check(fields[name], name, key, value)
            elif not open_ended:
                known = [option.name for option in options_of(target)]
                raise ConfigError(f"There is no option '{key}'.", did_you_mean(name, known))
    problems.check()


def value_of(change: str) -> Any:
    """The value of `KEY=VALUE`, read as YAML.

    Raises:
        ConfigError: it is no YAML.
    """
    try:
        return yaml.safe_load(change.partition("=")[2])
    except (yaml.YAMLError, ValueError) as error:  # a ValueError: 2024-13-01 is no date
        quoted = shlex.quote(f'{change.partition("=")[0]}="…"')
        raise ConfigError(
            f"'{change}' cannot be read: {first_line(error)}.",
            f"Quote what is text twice, once for the shell: {quoted}.",
        ) from error


def _fields(target: Callable[..., Any]) -> tuple[dict[str, FieldInfo], bool]:
    """Declarations by name, and whether the target takes options that it does not declare."""
    from pydantic.fields import FieldInfo

    if _is_model(target):
        return dict(target.model_fields), target.model_config.get("extra") == "allow"  # type: ignore[attr-defined]
    hints: dict[str, Any] = {}
    try:
        if dataclasses.is_dataclass(target):  # inherited hints are read in their own modules
            hints = get_type_hints(target, include_extras=True)
        parameters = inspect.signature(target, eval_str=not hints).parameters.values()
    except NameError:  # hints whose names are imported for type checkers only
        parameters = inspect.signature(target).parameters.values()
    fields = {}
    for parameter in parameters:
        default = parameter.default
        hint = hints.get(parameter.name, parameter.annotation)
        if hint is REQUIRED or isinstance(hint, str):
            hint = Any
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            if default is REQUIRED:
                fields[parameter.name] = FieldInfo.from_annotation(hint)
            else:
                fields[parameter.name] = FieldInfo.from_annotated_attribute(hint, default)
    return fields, any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _default(field: FieldInfo) -> Any:
    return REQUIRED if field.is_required() else field.get_default(call_default_factory=True)


def _check(field: FieldInfo, name: str, key: str, value: Any) -> None:
    annotation: Any = field.annotation
    if _is_model(annotation) and isinstance(value, Mapping):
        return check_options(annotation, value, key)
    problems = _problems(field, value)
    if not problems:
        return
    limits, default = _range(name, _declared(field)), _default(field)
    hint = "" if default in (None, REQUIRED) else f"The default is {_shown(default)}."
    if limits and any(kind in _RANGE_ERRORS for kind, _ in problems):
        raise ConfigError(f"{key}={_shown(value)} is out of range: {limits}.", hint)
    for kind, found in problems:
        if kind == "literal_error" and isinstance(found, str):
            near = did_you_mean(found, map(str, _choices(annotation)))
            hint = near if near.startswith("Did you mean") else hint
    limits = f", {limits}" if limits else ""
    kind = _kind(annotation)
    verb = "hold" if kind.startswith("keys") else "be"
    raise ConfigError(f"{key}={_shown(value)} must {verb} {kind}{limits}.", hint)


def _problems(field: FieldInfo, value: Any) -> list[tuple[str, Any]]:
    """What is wrong with a value: names of pydantic's errors, and the values that cause them."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticSchemaGenerationError

    hint = field.annotation
    if _is_model(hint):
        return [("model_type", value)]
    if not _is_plain(hint):  # an object, which no configuration can hold
        return []
    if get_origin(hint) is Literal and isinstance(value, bool):  # True == 1
        return [] if any(choice is value for choice in _choices(hint)) else [("bool_type", value)]
    try:
        config = ConfigDict(strict=True, allow_inf_nan=False)
        TypeAdapter(_declared(field), config=config).validate_python(value)
    except PydanticSchemaGenerationError:  # not a hint for values
        return []
    except ValidationError as error:
        problems = [(problem["type"], problem["input"]) for problem in error.errors()]
        number = isinstance(value, bool | int | float)
        return [] if number and any(kind == "string_type" for kind, _ in problems) else problems
    return []


def _declared(field: FieldInfo) -> Any:
    """The hint of a field with its constraints."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _is_model(target: Any) -> bool:
    from pydantic import BaseModel

    return isinstance(target, type) and issubclass(target, BaseModel)


def _is_plain(hint: Any) -> bool:
    """Whether a hint stands for values that a configuration can hold."""
    arguments = [part for part in get_args(hint) if part is not ...]
    origin = get_origin(hint)
    if origin is Literal:
        return True
    if origin is Annotated:
        return _is_plain(arguments[0])
    if origin in _UNIONS or _is_container(origin):
        return all(_is_plain(part) for part in arguments)
    return hint in _WORDS or _is_container(hint) or _is_model(hint)


def _is_container(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(
        kind, collections.abc.Sequence | collections.abc.Mapping
    ) and kind is not str  # fmt: skip


def _kind(hint: Any) -> str:
    """A hint in words."""
    arguments = [part for part in get_args(hint) if part is not ...]
    origin = get_origin(hint)
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return _any_of([_shown(choice) for choice in arguments])
    if origin in _UNIONS:
        return _any_of([_kind(part) for part in arguments])
    if _is_model(hint) or (_is_container(origin or hint) and issubclass(origin or hint, Mapping)):
        return "keys and values"
    if _is_container(origin or hint):
        return f"a list (each entry {_kind(arguments[0])})" if arguments else "a list"
    return _WORDS.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def _range(name: str, hint: Any) -> str:
    """The constraints of a hint in words; those of a list's entries count, too."""
    if get_origin(hint) is not Annotated:
        entries = "each entry" if _is_container(get_origin(hint)) else name
        return " and ".join(filter(None, (_range(entries, part) for part in get_args(hint))))
    inner, *constraints = get_args(hint)
    limits = {
        limit: getattr(constraint, limit)
        for declared in constraints
        for constraint in getattr(declared, "metadata", [declared])
        for limit in ("gt", "ge", "lt", "le", *_LIMITS)
        if getattr(constraint, limit, None) is not None
    }
    words = [_range(name, inner)]
    low, high = limits.get("gt", limits.get("ge")), limits.get("lt", limits.get("le"))
    below = "<" if "lt" in limits else "≤"
    if low is not None and high is not None:
        words.append(f"{low} {'<' if 'gt' in limits else '≤'} {name} {below} {high}")
    elif low is not None:
        words.append(f"{name} {'>' if 'gt' in limits else '≥'} {low}")
    elif high is not None:
        words.append(f"{name} {below} {high}")
    for limit, text in _LIMITS.items():
        if limit in limits:
            words.append(text.format(limits[limit]))
    return " and ".join(filter(None, words))


def _choices(hint: Any) -> Iterator[Any]:
    """The values of all `Literal` hints in a hint."""
    for part in get_args(hint):
        if get_origin(hint) is Literal:
            yield part
        else:
            yield from _choices(part)


def _any_of(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _shown(value: Any) -> str:
    """A value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    looks_like_a_number = isinstance(value, str) and value.replace(".", "").isdigit()
    return f"'{value}'" if looks_like_a_number else str(value)
