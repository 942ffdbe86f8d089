"""Settings: record and config.json are of one experiment, and its hash and digest are theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from harness.core.hashing import settings_digest
from harness.experiment.plan import settings_hash
from harness.experiment.submissions.context import Context, ReadRun
from harness.experiment.submissions.untrusted import quoted
from harness.experiment.submissions.verdict import Found, failed, failed_or, ok, unknown


def check_settings(run: ReadRun, context: Context) -> Found:
    """Recompute the hash of all settings and the digest of config.json."""
    problems = list(_contradictions(run))
    if (digest := settings_digest(run.config)) != run.record.get("config"):
        stated = quoted(str(run.record.get("config")))
        problems.append(f"config.json has digest {digest[:8]}, the record says {stated}")
    found, stated = _hash(run.config), run.record["settings"]
    if problems or found == stated:
        return failed_or(problems, ok(f"settings {found}"))
    if _depends_on_files(run.config):
        return unknown("the settings' hash covers files that the configuration only names")
    return failed(f"config.json gives settings {found}, the record says {quoted(stated)}")


def _hash(config: Mapping[str, Any]) -> str:
    """The hash of a config.json; a run that training began from counts by its weights' digest."""
    init = config.get("init")
    return settings_hash(dict(config) | ({"init": str(init).split(" ")[-1]} if init else {}))


def _depends_on_files(config: Mapping[str, Any]) -> bool:
    """Whether the hash may cover a file's content: of a list of images, or a stage's weights."""
    sections = [config["dataset"], *config["dataset"].get("sets", {}).values()]
    stages = [stage or {} for stage in config["stages"].values()]
    weights = [(stage.get("backbone") or {}).get("weights") for stage in stages]
    lists = [section.get("csv") for section in sections if isinstance(section, dict)]
    return any(value is not None for value in (*weights, *lists))


def _contradictions(run: ReadRun) -> Iterator[str]:
    record, config = run.record, run.config
    pairs = {
        "method": (record["experiment"]["method"], config["method"]["name"]),
        "seed": (record["experiment"]["seed"], config["seed"]),
        "protocol": (record["protocol"]["name"], (config.get("protocol") or {}).get("name")),
        "protocol, again,": (record["protocol"]["name"], record["experiment"].get("protocol")),
        "data set": (record["dataset"].get("name"), record["experiment"]["dataset"]),
    }
    for what, (one, other) in pairs.items():
        if one != other:
            yield f"{what} is {quoted(str(one))} and {quoted(str(other))}"
    entry, named = run.entry, record["experiment"]
    if (entry.method, entry.dataset, entry.seed) != tuple(
        named[key] for key in ("method", "dataset", "seed")
    ):
        yield "submission.json names another method, data set or seed than the record"
    if not str(named["dataset"]).startswith(str(config["dataset"]["name"]).split("+")[0]):
        yield f"data set is {quoted(named['dataset'])} and {quoted(config['dataset']['name'])}"
    stages = [name for name in config["stages"] if name in record["stages"]] or ["initial"]
    if list(record["stages"]) != stages:
        yield f"stages are {quoted(list(record['stages']))} and {quoted(stages)}"
    if record["metrics"] != list(record["stages"].values())[-1]["metrics"]:
        yield "the record's metrics are not those of its last stage"
