"""Protocol: a named one is what it is here, today; `published` is the method's own settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.core.errors import HarnessError
from harness.core.hashing import UNHASHED
from harness.core.options import REQUIRED, options_of
from harness.experiment.compose import compose
from harness.experiment.joint_datasets import BETWEEN, plugin_names
from harness.experiment.labelled_source import setting_of
from harness.experiment.plan import NEUTRAL, Plan, make_plan
from harness.experiment.stages import PLUGS, target_of
from harness.experiment.submissions.checks.card import differences
from harness.experiment.submissions.context import Context, ReadRun
from harness.experiment.submissions.untrusted import quoted
from harness.experiment.submissions.verdict import Found, failed, failed_or, ok, unknown
from harness.results.row_labels import flat
from harness.results.settings import SUPERVISED

#: protocols that are the authors' settings of a method, so that every setting counts
PUBLISHED = ("published",)
#: settings that are no part of what a method's authors published
_OPEN = ("seed", "protocol.name", "train.compile")
_MISSING = object()


def check_protocol(run: ReadRun, context: Context) -> Found:
    """Compare with what the named protocol composes, for the same method and data set."""
    name = str(run.record["protocol"]["name"])
    choice = context.known.protocols.get(name)
    if choice is None:
        return unknown(f"no installed protocol is named {quoted(name)}: compare by the card")
    method = context.known.methods.get(str(run.config["method"]["name"]))
    datasets = plugin_names(run.config["dataset"])
    if method is None or not set(datasets) <= context.known.datasets:
        return unknown("its method or data set is not installed here")
    try:
        plan = _plan(context, run, method, BETWEEN.join(datasets), choice)
    except HarnessError as error:
        return failed(f"it cannot be composed here: {quoted(error.cause, 200)}")
    weights, problems = _weights(run.record["protocol"], plan.card), []
    expected = plan.card | ({"weights": run.record["protocol"]["weights"]} if weights else {})
    shown = {k: v for k, v in run.record["protocol"].items() if k not in UNHASHED}
    held = {key: value for key, value in expected.items() if key not in UNHASHED}
    own, stages = list(plan.settings["stages"]), list(run.config["stages"])
    if not set(stages) <= set(own):  # `distiller.teacher=RUN` leaves out the teacher's
        names = [quoted(", ".join(some) or "none") for some in (stages, own)]
        problems.append(f"its stages are {names[0]}; those of {method} are {names[1]}")
    problems += differences({**shown, "hash": run.record["protocol"]["hash"]}, held)
    if name in PUBLISHED:
        problems += _settings(run.config, plan.settings, bool(weights))
        if run.record["protocol"].get("tuned"):
            problems.append("tuned: its settings were found by a search")
    return failed_or(problems, ok(weights))


def _plan(context: Context, run: ReadRun, method: str, dataset: str, choice: str) -> Plan:
    """What the protocol composes, with the run's precision where the protocol leaves it open."""
    precision, source = str(run.config["train"]["precision"]), _source(run)
    key = (method, dataset, str(source), choice, precision)
    if key not in context.reference.plans:
        named = [f"source={source['name']}"] if source else []
        config = compose([f"method={method}", f"dataset={dataset}", *named, choice])
        if source:  # which images of it were used is left open
            config.source = source
        own = str(config.train.precision)
        context.reference.plans[key] = make_plan(config, precision if own == "auto" else own)
    return context.reference.plans[key]


def _source(run: ReadRun) -> dict[str, Any] | None:
    """The labeled source of a run; None if it is the data set itself, as of `supervised`."""
    supervised = setting_of(run.composed) == SUPERVISED
    return None if supervised else run.config.get("source")


def _weights(recorded: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """A remark on weights from a file, in place of torchvision's; "" if they are the same."""
    own = str(recorded.get("weights"))
    if expected.get("weights") == "imagenet (torchvision)" and " sha256:" in own:
        return f"weights from a file, {quoted(own)}, in place of torchvision's"
    return ""


def _settings(
    config: Mapping[str, Any], expected: Mapping[str, Any], other_weights: bool
) -> Iterator[str]:
    """Every setting that differs from the published one."""
    recorded, composed = flat(dict(config)), flat(dict(expected))
    skipped = {*_OPEN, *(["backbone.weights"] if other_weights else [])}
    for key in dict.fromkeys([*composed, *recorded]):
        if key in skipped:
            continue
        pair = [s.get(key, _MISSING) for s in (recorded, composed)]
        pair = [_default(config, key) if value is _MISSING else value for value in pair]
        if pair[0] != pair[1]:
            words = ["nothing" if value is _MISSING else quoted(value) for value in pair]
            yield f"{quoted(key)}={words[0]}, published is {words[1]}"


def _default(config: Mapping[str, Any], key: str) -> Any:
    """The value of an option that one of the two does not name: options are added over time."""
    section, _, name = key.partition(".")
    if name in NEUTRAL.get(section, {}):
        return NEUTRAL[section][name]
    target = (config.get(section) or {}).get("_target_") if section in PLUGS else None
    if target is not None:
        for option in options_of(target_of(str(target), section)):
            if option.name == name and option.default is not REQUIRED:
                default = option.default
                return list(default) if isinstance(default, tuple) else default
    return _MISSING
