"""Card: the protocol card recomputed from config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.components.backbones.weights import describe_weights, is_portable
from harness.core.errors import HarnessError
from harness.core.hashing import card_hash
from harness.experiment.labelled_source import check_source
from harness.experiment.protocol import protocol_card
from harness.experiment.recipe import make_recipe
from harness.experiment.submissions.checks.images import loaded, published_facts
from harness.experiment.submissions.context import Context, ReadRun
from harness.experiment.submissions.installed import named_targets
from harness.experiment.submissions.untrusted import quoted
from harness.experiment.submissions.verdict import Found, failed, failed_or, ok, unknown


def check_card(run: ReadRun, context: Context) -> Found:
    """Check the configuration as before a run, and compare its card with the record's."""
    foreign = [
        (place, target)
        for _, place, target in named_targets(run.config)
        if target is not None and target not in context.known.targets[place]
    ]
    if any(place in ("backbone", "dataset") for place, _ in foreign):
        return unknown("the backbone or the data set is of a plug-in that is not installed")
    try:
        if not foreign:
            check_source(run.composed, make_recipe(run.composed).stages)
        card = recomputed(run)
    except HarnessError as error:
        return failed(f"config.json cannot be run: {quoted(error.cause, 300)}")
    problems = differences(run.record["protocol"], card)
    if problems == [_line("cameras", False, True)] and _may_lack_cameras(run, context):
        return ok("the data set has no cameras")
    if foreign and not problems:
        return unknown("equal, but parts of a plug-in are not installed, so it cannot be composed")
    return failed_or(problems, ok(f"{quoted(card['name'])} ({card['hash']})"))


def recomputed(run: ReadRun) -> dict[str, Any]:
    """The card that a config.json gives. Weights are named, never looked for."""
    config = run.composed
    nodes = [run.config, *(stage or {} for stage in run.config["stages"].values())]
    values = {str((node.get("backbone") or {}).get("weights", "none")) for node in nodes}
    weights = {value: describe_weights(value) if is_portable(value) else value for value in values}
    return protocol_card(config, str(config.train.precision), weights)


def differences(recorded: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """`KEY: RECORDED in the record, not EXPECTED` for every line of a card that differs."""
    lines = []
    for key in dict.fromkeys([*expected, *recorded]):
        if key == "hash" or recorded.get(key) == expected.get(key):
            continue
        lines.append(_line(key, recorded.get(key), expected.get(key)))
    own = card_hash(dict(recorded))
    if recorded["hash"] != own:
        lines.append(_line("hash", recorded["hash"], own))
    return lines


def _line(key: str, recorded: object, expected: object) -> str:
    return f"{quoted(key)}: {quoted(recorded)} in the record, not {quoted(expected)}"


def _may_lack_cameras(run: ReadRun, context: Context) -> bool:
    """Whether the data set may have no cameras, so that no method sees any."""
    if (data := loaded(run, context)) is not None:
        return data.train.cameras is None
    facts = published_facts(run, context)
    return facts is None or not facts.cameras
