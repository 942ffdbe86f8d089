"""What is searched: a tree of ranges and choices beside a method's defaults.

    search:
      space:
        labeler: {eps: {low: 0.3, high: 0.7}}
        objective:
          temperature: {low: 0.02, high: 0.2, log: true}
          hard: {choices: [false, true]}
          momentum: {low: 0.0, high: 0.9, when: {objective.hard: false}}

A leaf has `low` and `high` (whole numbers where the value is one), with `step` or `log: true`, or
`choices`; `when` names other searched keys and the values under which it is searched at all. Where
a leaf is wrong, the error names the line that it stands in, or the override.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any

from harness.core.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

FIELDS = ("low", "high", "step", "log", "choices", "when")
PLAIN = (str, int, float, bool, type(None))
Values = dict[str, Any]
#: dotted key (and a field of it) → where it was written, for people
Locate = Callable[[str, str], str]


@dataclass(frozen=True)
class Param:
    """One searched key.

    Attributes:
        key: dotted, as on the command line. whole: whether it takes whole numbers only.
        choices: None for a range. when: other keys → the values under which this one is searched.
        where: the line or the override that it was written in.
    """

    key: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] | None = None
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    where: str = ""

    def refuse(self, cause: str, hint: str = "") -> ConfigError:
        """An error that says where to mend it."""
        return ConfigError(
            f"search.space.{self.key}: {cause}", f"{hint} Mend {self.where}.".strip()
        )

    @property
    def names(self) -> tuple[Any, ...]:
        """What Optuna calls the choices: themselves, or JSON for lists."""
        return tuple(c if isinstance(c, PLAIN) else json.dumps(c) for c in self.choices or ())

    @property
    def distribution(self) -> BaseDistribution:
        """As Optuna has it."""
        from optuna import distributions as d

        if self.choices is not None:
            return d.CategoricalDistribution(self.names)
        assert self.low is not None and self.high is not None
        if self.whole:
            return d.IntDistribution(
                int(self.low), int(self.high), log=self.log, step=int(self.step or 1)
            )
        return d.FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def draw(self, trial: Trial) -> Any:
        """A value from Optuna."""
        if self.choices is not None:
            name = trial.suggest_categorical(self.key, self.names)
            return self.choices[self.names.index(name)]
        assert self.low is not None and self.high is not None
        if self.whole:
            low, high, step = int(self.low), int(self.high), int(self.step or 1)
            return int(trial.suggest_int(self.key, low, high, step=step, log=self.log))
        value = trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)
        return float(value)  # of a grid, old versions of Optuna give numpy's

    def encode(self, value: Any) -> Any:
        """What Optuna knows a value by."""
        return value if self.choices is None or isinstance(value, PLAIN) else json.dumps(value)

    def decode(self, stored: Any) -> Any:
        """The value that Optuna knows by this."""
        return stored if self.choices is None else self.choices[self.names.index(stored)]

    def holds(self, value: Any) -> bool:
        """Whether a value could be drawn."""
        if self.choices is not None:
            return any(value == c and isinstance(value, bool) == isinstance(c, bool)
                       for c in self.choices)  # fmt: skip
        if not _number(value) or (self.whole and value != int(value)):
            return False
        assert self.low is not None and self.high is not None
        if not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / self.step if self.step else 0.0
        return math.isclose(steps, round(steps), abs_tol=1e-6)

    def grid(self) -> list[Any]:
        """All values.

        Raises:
            ConfigError: there are infinitely many.
        """
        if self.choices is not None:
            return list(self.choices)
        assert self.low is not None and self.high is not None
        step = self.step or (1 if self.whole else None)
        if step is None:
            raise self.refuse("a grid has no end here.", "Give it a step, or choices.")
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        values = [self.low + i * step for i in range(count)]
        return [int(v) for v in values] if self.whole else values

    def ends(self) -> list[Any]:
        """The values that are tried out before the first trial: both ends, or all choices."""
        if self.choices is not None:
            return list(self.choices)
        both = [self.low, self.high]
        return [int(v) for v in both if v is not None] if self.whole else both

    def describe(self) -> dict[str, Any]:
        """As it could be written in a config."""
        out: dict[str, Any] = {}
        if self.choices is not None:
            out["choices"] = list(self.choices)
        else:
            out |= {"low": self.low, "high": self.high}
            if self.step is not None:
                out["step"] = self.step
            if self.log:
                out["log"] = True
        if self.when:
            out["when"] = {key: list(values) for key, values in self.when.items()}
        return out


@dataclass(frozen=True)
class Space:
    """All searched keys, each after those that its `when` names."""

    params: tuple[Param, ...]

    def __iter__(self) -> Iterator[Param]:
        return iter(self.params)

    def active(self, values: Values) -> Values:
        """Those of some values whose conditions hold, decoded as they are."""
        kept: Values = {}
        for param in self.params:
            if param.key in values and _met(param, kept):
                kept[param.key] = values[param.key]
        return kept

    def draw(self, trial: Trial) -> Values:
        """A value for each key whose conditions hold."""
        values: Values = {}
        for param in self.params:
            if _met(param, values):
                values[param.key] = param.draw(trial)
        return values

    def encode(self, values: Values) -> Values:
        """As Optuna stores them."""
        return {p.key: p.encode(values[p.key]) for p in self.params if p.key in values}

    def decode(self, stored: Mapping[str, Any]) -> Values:
        """As configurations have them."""
        return {p.key: p.decode(stored[p.key]) for p in self.params if p.key in stored}

    def combinations(self) -> list[Values]:
        """All that there is to draw.

        Raises:
            ConfigError: infinitely many.
        """
        found: list[Values] = []
        for values in product(*(param.grid() for param in self.params)):
            drawn = self.active(dict(zip((p.key for p in self.params), values, strict=True)))
            if drawn not in found:
                found.append(drawn)
        return found

    def describe(self) -> dict[str, Any]:
        """Key → range, for records."""
        return {param.key: param.describe() for param in self.params}


def _met(param: Param, values: Values) -> bool:
    return all(values.get(k, _NOTHING) in wanted for k, wanted in param.when.items())


_NOTHING = object()


def parse(tree: Mapping[str, Any], locate: Locate) -> Space:
    """Read `search.space`.

    Raises:
        ConfigError: it is empty, or a leaf is nonsense by itself; names where to mend it.
    """
    params = [param for key, node in tree.items() for param in _leaves(str(key), node, locate)]
    if not params:
        raise ConfigError(
            "There is nothing to search: search.space is empty.",
            "Name a value and its range: '+search.space.labeler.eps={low: 0.4, high: 0.7}'.",
        )
    return Space(tuple(_ordered(params)))


def _leaves(key: str, node: Any, locate: Locate) -> Iterator[Param]:
    if node is None:
        return  # taken out by search.space.KEY=null
    if not isinstance(node, Mapping):
        raise ConfigError(
            f"search.space.{key}={node!r} is no range.",
            f"Write {{low: …, high: …}} or {{choices: […]}}. Mend {locate(key, '')}.",
        )
    own = {k: v for k, v in node.items() if k in FIELDS and (k == "when" or not _mapping(v))}
    for name, inner in node.items():
        if name in own:
            continue
        if own and not _mapping(inner) and inner is not None:
            raise ConfigError(
                f"search.space.{key} has no field '{name}'.",
                f"{did_you_mean(str(name), FIELDS)} Mend {locate(key, str(name))}.",
            )
        yield from _leaves(f"{key}.{name}", inner, locate)
    if own:
        yield _leaf(key, own, locate)


def _mapping(node: Any) -> bool:
    return isinstance(node, Mapping)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _leaf(key: str, fields: Mapping[str, Any], locate: Locate) -> Param:
    def refuse(cause: str, hint: str = "", at: str = "") -> ConfigError:
        return Param(key, where=locate(key, at)).refuse(cause, hint)

    when = fields.get("when") or {}
    if not _mapping(when):
        raise refuse(f"when={when!r} must be {{KEY: VALUE}}.", at="when")
    common: dict[str, Any] = {
        "key": key,
        "when": {str(k): tuple(v) if isinstance(v, list) else (v,) for k, v in when.items()},
        "where": locate(key, ""),
    }
    if "choices" in fields:
        if mixed := [k for k in ("low", "high", "step", "log") if k in fields]:
            raise refuse(f"choices and {mixed[0]} exclude each other.", at=mixed[0])
        choices = fields["choices"]
        if not isinstance(choices, list) or not choices:
            raise refuse(f"choices={choices!r} leave nothing to choose.", at="choices")
        if len(choices) != len({json.dumps(c) for c in choices}):
            raise refuse(f"choices={choices!r} name a value twice.", at="choices")
        return Param(**common, choices=tuple(choices))
    for name in ("low", "high"):
        if name not in fields:
            raise refuse(f"'{name}' is missing.", "A range has low and high.")
        if not _number(fields[name]):
            raise refuse(f"{name}={fields[name]!r} must be a number.", at=name)
    low, high, step = fields["low"], fields["high"], fields.get("step")
    log = fields.get("log", False)
    if low >= high:
        raise refuse(f"from {low} to {high} there is nothing: the range is empty.", at="low")
    if not isinstance(log, bool):
        raise refuse(f"log={log!r} must be true or false.", at="log")
    if log and low <= 0:
        raise refuse(
            f"there is no logarithm of low={low}.", "Raise low above 0, or leave log out.", "low"
        )
    if step is not None and (not _number(step) or not 0 < step <= high - low):
        raise refuse(f"step={step!r} must be above 0 and within {high - low:g}.", at="step")
    if log and step is not None:
        raise refuse("log and step exclude each other.", at="step")
    return Param(**common, low=low, high=high, step=step, log=log)


def _ordered(params: Sequence[Param]) -> Iterator[Param]:
    """Each after those that its conditions name.

    Raises:
        ConfigError: a condition on what is not searched, or that can never hold, or a circle.
    """
    known = {param.key: param for param in params}
    for param in params:
        for key, wanted in param.when.items():
            if key not in known:
                raise param.refuse(
                    f"it depends on '{key}', which is not searched.", did_you_mean(key, known)
                )
            if not any(known[key].holds(value) for value in wanted):
                raise param.refuse(f"it depends on {key}={wanted[0]!r}, which is never drawn.")
    done: set[str] = set()
    left = list(params)
    while left:
        ready = [param for param in left if set(param.when) <= done]
        if not ready:
            raise left[0].refuse("its conditions go round in a circle.")
        yield from ready
        done |= {param.key for param in ready}
        left = [param for param in left if param.key not in done]
