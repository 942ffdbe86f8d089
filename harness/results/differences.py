"""What sets a run apart: from its method's defaults, and from another run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from harness.core import plugins
from harness.core.errors import HarnessError
from harness.core.metrics import METRICS
from harness.results.row_labels import (
    Flat,
    defaults,
    flat,
    foreign_parts,
    is_default,
    part_option,
    recipe,
)
from harness.results.run_status import state
from harness.results.store import REPLACE, Run

#: settings that the name of a run shows, or that others repeat
SHOWN_ELSEWHERE = ("seed", "name", "method.name", "protocol.name", "dataset.name")
MISSING = "–"


class ChangedOptions:
    """The protocol of runs and their options that are not the method's defaults.

    `debug: labeler.eps=0.5, optimizer.lr=0.001`. Only what can be compared is named: nothing of
    methods that are not installed, nor of joint data sets.
    """

    def __init__(self) -> None:
        methods = plugins.find()["methods"].values()
        self._recipe = cache(lambda method: recipe(method, methods))
        self._defaults: dict[tuple[str, ...], dict[str, Any]] = {}

    def of(self, run: Run) -> str:
        """The text of a run; empty if its configuration cannot be read."""
        try:
            config = flat(run.config())
        except (HarnessError, RecursionError):
            return ""
        node = self._recipe(str(config.get("method.name")))
        changed = [f"{part}={option}" for part, option in foreign_parts(node, config).items()]
        changed += [
            option_text(key, value)
            for key, value in config.items()
            if key not in SHOWN_ELSEWHERE and self._is_changed(key, config)
        ]
        return ": ".join(filter(None, [str(config.get("protocol.name", "")), ", ".join(changed)]))

    def _is_changed(self, key: str, config: Flat) -> bool:
        default = self._default(config)
        if not default or config[key] == "a finished run":  # `teachers` names it
            return False
        section = f"{key.split('.')[0]}."
        if section == "dataset." and not any(known.startswith(section) for known in default):
            return False
        return not is_default(key, config, default)

    def _default(self, config: Flat) -> dict[str, Any]:
        names = [str(config.get(f"{group}.name")) for group in ("method", "protocol", "dataset")]
        parts = [str(value) for key, value in config.items() if key.endswith("_target_")]
        known = (*names, *parts)
        if known not in self._defaults:
            node = self._recipe(names[0])
            self._defaults[known] = {} if node is None else defaults(node, config)
        return self._defaults[known]


def option_text(key: str, value: object) -> str:
    """An option as it is given on the command line: `labeler.eps=0.5`, `labeler=kmeans`."""
    part, _, last = key.rpartition(".")
    if last == "_target_":
        return f"{part}={part_option(part, value)}"
    return f"{key}={_text(value)}"


class Difference(NamedTuple):
    """A value that two runs differ in."""

    section: str
    key: str
    one: str
    other: str


def differences(one: Run, other: Run) -> Iterator[Difference]:
    """What two runs differ in: settings, protocol card, data set, environment and metrics.

    Metrics and costs are given even if they are equal.

    Raises:
        HarnessError: a configuration or a record is missing or damaged.
    """
    try:
        sections = _sections(one), _sections(other)
    except RecursionError as error:
        raise HarnessError(f"{one.name} or {other.name} is nested too deeply.", REPLACE) from error
    for section in sections[0]:
        here, there = (found[section] for found in sections)
        for key in dict.fromkeys([*here, *there]):
            values = _text(here.get(key, MISSING)), _text(there.get(key, MISSING))
            if values[0] != values[1] or section == "result":
                yield Difference(section, key, *values)


def _sections(run: Run) -> dict[str, dict[str, Any]]:
    record = run.record
    result = {"status": str(state(run))}
    for stage, found in record.get("stages", {}).items():
        for key, value in found["metrics"].items():
            if key in METRICS:
                metric = METRICS[key]
                result[f"{stage} {metric.label}"] = f"{value:.{metric.decimals}f}"
    if record:
        result["hours"] = f"{record['seconds'] / 3600:.3g}"
    return {
        "settings": flat(run.config()),
        "protocol card": flat(record.get("protocol", {})),
        "data set": flat(record.get("dataset", {})),
        "environment": flat(record.get("environment", {})),
        "result": result,
    }


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
