"""The search space: a tree of ranges and choices beside a method's defaults (docs/search.md).

A leaf has `low` and `high` (both whole numbers where the default is one), optionally with `step` or
`log: true`, or it has `choices`. `when` names other searched keys and the values under which this
key is searched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from optuna.distributions import FloatDistribution
from optuna.trial import Trial
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from harness.core.errors import ConfigError, did_you_mean

#: dotted key → value
Values = dict[str, Any]
Number = int | float
Choices = Annotated[list[bool | int | float | str | None], Field(min_length=1)]
OneOrMore = Annotated[Choices, BeforeValidator(lambda v: v if isinstance(v, list) else [v])]


class SpaceError(ConfigError):
    """An invalid part of the space, with its key, without `search.space`."""

    def __init__(self, key: str, cause: str, hint: str = "") -> None:
        super().__init__(f"search.space.{key}: {cause}", hint)
        self.key = key


class Param(BaseModel):
    """One searched key: a leaf of the space. `whole`: a range has whole numbers only."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    key: str
    low: Number | None = None
    high: Number | None = None
    step: Annotated[Number, Field(gt=0)] | None = None
    log: bool = False
    choices: Choices | None = None
    when: dict[str, OneOrMore] = {}
    whole: bool = False

    @property
    def bounds(self) -> tuple[Number, Number, Number | None]:
        """Low, high and step of a range."""
        assert self.low is not None and self.high is not None
        return self.low, self.high, self.step or (1 if self.whole else None)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.choices is not None:
            if mixed := self.model_fields_set & {"low", "high", "step", "log"}:
                raise SpaceError(self.key, f"choices and {min(mixed)} exclude each other.")
            if len(self.choices) != len({(type(c), c) for c in self.choices}):
                raise SpaceError(self.key, f"choices={self.choices} contains a value twice.")
            return self
        if self.low is None or self.high is None:
            name = "low" if self.low is None else "high"
            raise SpaceError(self.key, f"'{name}' is missing.", "A range has low and high.")
        if self.low >= self.high:
            raise SpaceError(self.key, f"low={self.low}, high={self.high} is an empty range.")
        try:
            single = FloatDistribution(self.low, self.high, self.log, self.step).single()
        except ValueError as error:
            raise SpaceError(self.key, str(error).replace("`", "")) from error
        if single:
            raise SpaceError(self.key, f"step={self.step} is larger than the range.")
        return self

    def applies(self, values: Values) -> bool:
        """Whether the key is searched, given the values of the keys before it."""
        return all(k in values and values[k] in wanted for k, wanted in self.when.items())

    def draw(self, trial: Trial) -> Any:
        """Let Optuna suggest a value."""
        if self.choices is not None:
            return trial.suggest_categorical(self.key, self.choices)
        suggest: Any = trial.suggest_int if self.whole else trial.suggest_float
        low, high, step = self.bounds
        value = suggest(self.key, low, high, step=step, log=self.log)
        return int(value) if self.whole else float(value)  # Optuna 4 draws numpy's from a grid

    def contains(self, value: Any) -> bool:
        """Whether a value could be drawn."""
        if self.choices is not None:
            return (type(value), value) in [(type(c), c) for c in self.choices]
        if not is_number(value) or (self.whole and value != int(value)):
            return False
        low, high, step = self.bounds
        steps = (value - low) / step if step else 0.0
        return low <= value <= high and math.isclose(steps, round(steps), abs_tol=1e-6)

    def grid(self) -> list[Any]:
        """All values."""
        if self.choices is not None:
            return self.choices
        low, high, step = self.bounds
        if step is None:
            raise SpaceError(self.key, "a grid needs finitely many values.", "Add step or choices.")
        return [low + i * step for i in range(math.floor((high - low) / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Space:
    """All searched keys, each after the keys that its `when` names."""

    params: tuple[Param, ...]

    def __iter__(self) -> Iterator[Param]:
        return iter(self.params)

    def draw(self, trial: Trial) -> Values:
        """A value for each key whose conditions hold."""
        values: Values = {}
        for param in self:
            if param.applies(values):
                values[param.key] = param.draw(trial)
        return values

    def combinations(self) -> list[Values]:
        """All that can be drawn.

        Raises:
            ConfigError: there are infinitely many.
        """
        found: list[Values] = [{}]
        for param in self:
            grid = param.grid()
            found = [
                values | chosen
                for values in found
                for chosen in ([{param.key: v} for v in grid] if param.applies(values) else [{}])
            ]
        return found

    def describe(self) -> dict[str, Any]:
        """Key → leaf, for records."""
        return {p.key: p.model_dump(exclude={"key", "whole"}, exclude_defaults=True) for p in self}


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def parse(tree: Mapping[str, Any]) -> Space:
    """Read `search.space`.

    Raises:
        ConfigError: it is empty, or a leaf is invalid in itself.
    """
    params = list(_leaves("", tree))
    if not params:
        raise ConfigError("There is nothing to search: search.space is empty.",
                          "Add a range: '+search.space.labeler.eps={low: 0.4, high: 0.7}'."
                          )  # fmt: skip
    known, done = {param.key: param for param in params}, list[Param]()
    for param in params:
        for key, wanted in param.when.items():
            if key not in known:
                raise SpaceError(param.key, f"it depends on '{key}', which is not searched.",
                                 did_you_mean(key, known))  # fmt: skip
            if not any(known[key].contains(value) for value in wanted):
                raise SpaceError(param.key, f"it depends on {key}={wanted}, which is never drawn.")
    while left := [param for param in params if param not in done]:
        ready = [param for param in left if set(param.when) <= {p.key for p in done}]
        if not ready:
            raise SpaceError(left[0].key, "its conditions depend on each other in a circle.")
        done += ready
    return Space(tuple(done))


def _leaves(key: str, node: Mapping[str, Any]) -> Iterator[Param]:
    fields: dict[str, Any] = {}
    for name, inner in node.items():
        path = f"{key}.{name}".lstrip(".")
        is_field = name in Param.model_fields and name not in ("key", "whole")
        # a section may have a key with the name of a field: optimizer.step
        if is_field and key and (name == "when" or not isinstance(inner, Mapping)):
            fields[name] = inner
        elif isinstance(inner, Mapping):
            yield from _leaves(path, inner)
        elif inner is not None:  # search.space.KEY=null removes a key
            raise SpaceError(path, f"{inner!r} is not a range.",
                             "Write {low: …, high: …} or {choices: […]}.")  # fmt: skip
    if fields:
        try:
            yield Param(key=key, **fields)
        except ValidationError as error:
            name = str(error.errors()[0]["loc"][0])
            kinds = {"log": "true or false", "choices": "a list of numbers, words, true and false",
                     "when": "{KEY: VALUE}"}  # fmt: skip
            kind = kinds.get(name, "a finite number" + " above 0" * (name == "step"))
            raise SpaceError(key, f"{name}={fields[name]!r} must be {kind}.") from error
