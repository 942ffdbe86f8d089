"""Schema: record, history and configuration have the fields that tables and checks rely on, and no
value of the configuration does anything but be a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.experiment.sections import TOP_KEYS
from harness.experiment.submissions.installed import OF_PLUGIN, Installed, named_targets
from harness.experiment.submissions.untrusted import quoted
from harness.experiment.submissions.verdict import Found, failed_or, ok
from harness.results import schema

#: keys of config.json beyond those of a configuration
_FURTHER = ("teachers",)


def schema_problems(record: Any, config: Any, history: Any) -> Iterator[str]:
    """What is wrong with the fields of a run's files."""
    if isinstance(found := schema.read(record), str):
        yield quoted(found, 300)
    elif not (found.get("evaluated", True) and found["metrics"]):
        yield "the run was not evaluated"
    elif any(not stage["metrics"] for stage in found["stages"].values()):
        yield "a stage was not evaluated"
    if problem := schema.config_problem(config):
        yield quoted(problem, 300)
    if problem := schema.history_problem(history):
        yield f"history.json: {quoted(problem, 300)}"


def check_configuration(config: dict[str, Any], known: Installed) -> Found:
    """Whether a configuration is nothing but values, and names only parts that are installed, or
    parts of a plug-in, which are never imported.
    """
    problems = [*_odd_values(config)]
    problems += [
        f"config.json: there is no option {quoted(key)}"
        for key in config
        if key not in (*TOP_KEYS, *_FURTHER)
    ]
    allowed = {key for key, _, _ in named_targets(config)}
    problems += [
        f"config.json: {quoted(key)} cannot be given there"
        for key in _underscored(config)
        if key not in allowed
    ]
    foreign = []
    for key, place, target in named_targets(config):
        if target is None or target in known.targets[place]:
            continue
        if isinstance(target, str) and OF_PLUGIN.fullmatch(target):
            foreign.append(target)
        else:
            problems.append(f"config.json: {quoted(key)} is {quoted(target)}, no part of its kind")
    words = f"of a plug-in that is not installed: {', '.join(map(quoted, foreign))}"
    return failed_or(problems, ok(words if foreign else ""))


def _odd_values(node: Any, key: str = "") -> Iterator[str]:
    """Strings that OmegaConf would resolve."""
    if isinstance(node, dict):
        for name, value in node.items():
            inner = f"{key}.{name}" if key else str(name)
            if "${" in name:
                yield f"config.json: {quoted(inner)} is an interpolation"
            yield from _odd_values(value, inner)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _odd_values(value, f"{key}[{number}]")
    elif isinstance(node, str) and ("${" in node or node == "???"):
        yield f"config.json: {quoted(key)} is {quoted(node)}, no value"


def _underscored(node: Any, key: str = "") -> Iterator[str]:
    """Keys that Hydra treats in a way of its own: `_target_`, `_args_`, `_partial_`, …"""
    if isinstance(node, dict):
        for name, value in node.items():
            inner = f"{key}.{name}" if key else str(name)
            if str(name).startswith("_"):
                yield inner
            yield from _underscored(value, inner)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _underscored(value, f"{key}[{number}]")
