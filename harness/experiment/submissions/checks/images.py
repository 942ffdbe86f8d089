"""Data set: the images are those that its name promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from harness.core.errors import HarnessError
from harness.data.facts import FACT_NAMES
from harness.data.types import DatasetFacts, ReIDData
from harness.evaluation.evaluator import without_junk
from harness.experiment.joint_datasets import complete, plugin_names, sections, settings
from harness.experiment.labelled_source import setting_of
from harness.experiment.registration import register
from harness.experiment.stages import build, named
from harness.experiment.submissions.context import Context, ReadRun
from harness.experiment.submissions.untrusted import quoted
from harness.experiment.submissions.verdict import Found, failed_or, ok, unknown
from harness.results.settings import SUPERVISED

COUNTS = ("train", "query", "gallery")
#: the data set without files, and the images of it that are laid out for a check
RENDERED, MOST_RENDERED = "synthetic", 300_000
#: of own images, whose options are paths of another machine
OWN_IMAGES = "folder"


def check_images(run: ReadRun, context: Context) -> Found:
    """Compare fingerprint and counts with the published ones, and with the images if possible."""
    recorded = run.record["dataset"]
    problems = [*_names(run, context), *_source(run)]
    unlike = recorded.get("not_as_published") or []
    problems += [f"not as published: {quoted(line)}" for line in unlike]
    if skipped := recorded.get("unreadable"):
        problems.append(f"{len(skipped)} images could not be read")
    data, facts = loaded(run, context), published_facts(run, context)
    if data is not None:
        found, name = data.fingerprint(), named(data, str(run.config["dataset"]["name"])).name
        if name != recorded.get("name"):
            problems.append(f"its name is {quoted(recorded.get('name'))}, not {quoted(name)}")
        problems += _compared(recorded, DatasetFacts(*_sizes(data), fingerprint=found))
        return failed_or(problems, ok(f"{found[:8]}, as the images here"))
    if facts is None:
        reason = "nothing is published of these images, and they are not here"
        return failed_or(problems, unknown(reason))
    joined = len(sections(run.config["dataset"])) > 1
    if joined:
        problems += _parts(run, context)
    problems += _compared(recorded, facts, joined)
    if facts.fingerprint is None or joined:
        return failed_or(problems, unknown("the counts are as published; no fingerprint is known"))
    return failed_or(problems, ok(f"{facts.fingerprint[:8]}, as published"))


def _names(run: ReadRun, context: Context) -> Iterator[str]:
    """Loaders that are not those of their data sets, and subsets by the name of the whole."""
    found = register()["datasets"]
    for name, section in zip(
        plugin_names(run.config["dataset"]), sections(run.config["dataset"]), strict=True
    ):
        if name in context.known.datasets:
            own = settings(name, found)["_target_"]
            if section.get("_target_") != own:
                yield f"{quoted(section.get('_target_'))} is not the loader of {name}"
        if section.get("subset") is not None and "_subset" not in str(
            run.record["dataset"].get("name")
        ):
            yield f"config.json takes a subset of {quoted(name)}, which has a name of its own"


def _source(run: ReadRun) -> Iterator[str]:
    """A labeled source that is in one of record and config.json only, or is not what it is for."""
    stated, recorded = run.config.get("source"), run.record.get("source")
    if (stated is None) != (recorded is None):
        has, lacks = ("the record", "config.json")[:: 1 if stated is None else -1]
        yield f"{has} has a labeled source, {lacks} has none"
    elif recorded is not None:
        own = recorded["fingerprint"] == run.record["dataset"]["fingerprint"]
        supervised = setting_of(run.composed) == SUPERVISED
        if own and not supervised:
            yield "the labeled source is the data set itself"
        if supervised and not own:
            yield "a supervised run has the labels of other images than those of its data set"


def _sizes(data: ReIDData) -> tuple[int, None, int, None, int]:
    """train, train_identities, query, query_identities, gallery of `DatasetFacts`."""
    gallery = len(without_junk(data.gallery).identities)
    return len(data.train.identities), None, len(data.query.identities), None, gallery


def _compared(
    recorded: Mapping[str, Any], facts: DatasetFacts, joined: bool = False
) -> Iterator[str]:
    for key in COUNTS[1:] if joined else COUNTS:  # a joint training set is larger
        expected, stated = getattr(facts, key), recorded.get(key)
        if expected is not None and stated != expected:
            yield f"{FACT_NAMES.get(key, key)}: {quoted(stated)}, not {expected:,}"
    stated = str(recorded.get("fingerprint"))
    if not joined and facts.fingerprint not in (None, stated):
        yield f"fingerprint {quoted(stated[:8])}, not {str(facts.fingerprint)[:8]}"


def _parts(run: ReadRun, context: Context) -> Iterator[str]:
    """The sets of a joint one, each with the fingerprint that is known of it."""
    parts, own = run.record["dataset"].get("parts", []), sections(run.config["dataset"])
    if len(parts) != len(own):
        yield f"{len(parts)} data sets in the record, {len(own)} in config.json"
        return
    for number, part in enumerate(parts):
        facts = published_facts(run, context, number)
        if facts and facts.fingerprint not in (None, part["fingerprint"]):
            yield f"{quoted(part['name'])}: fingerprint {quoted(part['fingerprint'][:8])}"


def _section(run: ReadRun, number: int) -> tuple[str, dict[str, Any]]:
    """Name and options of a data set, those of its files included."""
    name = plugin_names(run.config["dataset"])[number]
    return name, dict(sections(run.config["dataset"])[number])


def published_facts(run: ReadRun, context: Context, number: int = 0) -> DatasetFacts | None:
    """What is publicly known of a data set of a run, without its images; None if nothing is."""
    name, section = _section(run, number)
    if name not in context.known.datasets or name == OWN_IMAGES:
        return None
    try:
        root = context.data_root or Path("data")
        facts: DatasetFacts | None = _built(name, section, root).facts()
    except HarnessError:
        return None
    return facts


def loaded(run: ReadRun, context: Context) -> ReIDData | None:
    """The images of a run, if they are here or need no files: they are not decoded."""
    if len(sections(run.config["dataset"])) > 1:
        return None
    name, section = _section(run, 0)
    if name == RENDERED and _rendered(section) <= MOST_RENDERED:
        root = Path("data")
    elif context.data_root is not None and name not in (RENDERED, OWN_IMAGES):
        root = context.data_root
    else:
        return None
    try:
        return _loaded(name, OmegaConf.to_yaml(section, sort_keys=True), root)
    except HarnessError:
        return None


@cache
def _loaded(name: str, section: str, root: Path) -> ReIDData:
    options: Any = OmegaConf.to_container(OmegaConf.create(section))
    return _built(name, options, root).load()


def _built(name: str, section: dict[str, Any], root: Path) -> Any:
    """The loader of an installed data set; its options were declared by its class."""
    whole = complete({"name": name} | section, root)
    return build(OmegaConf.create(whole), f"dataset {name}")


def _rendered(section: Mapping[str, Any]) -> float:
    """At least as many images as a synthetic data set lays out; infinite for odd options."""
    try:
        people = int(section.get("identities", 80)) + int(section.get("test_identities", 60))
        visits = people * int(section.get("cameras", 5))
        shots = 2 * visits * int(section.get("images_per_camera", 4))
        bad = float(section.get("distractors", 1.0)) * int(section.get("test_identities", 60))
        return shots + int(section.get("total_images") or 0) + bad
    except (TypeError, ValueError):
        return float("inf")
