"""`harness eval`: test the network of a finished run again, by another rule, without training."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from rich.console import Console

from harness import plugins
from harness.errors import ConfigError, DataError, did_you_mean
from harness.memory import keep_freed_memory
from harness.networks import load_network
from harness.precision import resolve_device
from harness.progress import Reporter
from harness.recipe import build
from harness.referee import make_referee
from harness.results import transfers
from harness.results.store import Store
from harness.several import BETWEEN, complete, sections, settings


def evaluate_run(
    run: str,
    changes: Sequence[str] = (),
    stage: str | None = None,
    rerank: bool = False,
    store: str = "results/runs",
    data_root: str | None = None,
    cache: str | None = None,
    device: str = "auto",
    json: bool = False,
    save: bool = False,
) -> dict[str, Any]:
    """Metrics in percent of a run's network; printed, and not written into its record.

    Args:
        changes: `dataset=NAME` for another data set than the run's; `dataset.KEY=VALUE` for its
            options, and for data that have moved (records hold no places).
        save: write a result file beside the record, for `harness table --cross`.

    Raises:
        HarnessError: no such run or stage, weights that were not kept, missing data.
    """
    found = Store(Path(store)).find(run)
    stages = list(found.record.get("stages", {}))
    if not stages:
        raise ConfigError(f"{found.name} is not finished.", "Give its command again to finish it.")
    stage = stage or stages[-1]
    if stage not in stages:
        raise ConfigError(f"{found.name} has no stage '{stage}'.", did_you_mean(stage, stages))
    config = found.config()
    other = choose(config, changes)
    root = Path(data_root or os.environ.get("HARNESS_DATA", "data")).expanduser()
    on = resolve_device(device)
    if on.type == "cpu":
        keep_freed_memory()
    backbone = load_network(found, stage).to(on)
    with Reporter(Console(stderr=True, highlight=False) if json else None) as reporter:
        referee = make_referee(
            build(OmegaConf.create(complete(config["dataset"], root)), "dataset").load(),
            (int(config["images"]["height"]), int(config["images"]["width"])),
            Path(cache).expanduser() if cache else root / ".harness",
            train=False,
            on_bad_image=config["dataset"].get("on_bad_image", "error"),
            device=on,
            precision=config["train"]["precision"],
            rerank=rerank,
            reporter=reporter,
        )
        if not referee.evaluates:
            raise DataError(f"{referee.data.name} has no test part.", "Choose another dataset=.")
        if not other and referee.fingerprint != found.record["dataset"]["fingerprint"]:
            reporter.say("These are not the images that the run's record was made with.")
        for line in referee.differences or []:
            reporter.say(f"{referee.data.name} is not as published: {line}")
        metrics = referee.test(backbone)
    result = {"run": found.name, "stage": stage, "dataset": referee.data.name, "rerank": rerank}
    result |= metrics
    if save:
        path = transfers.save(found, stage, referee, metrics, sections(config["dataset"])[0])
        print(f"written: {path}", file=sys.stderr)
    if json:
        print(jsonlib.dumps(result))
    else:
        where = f"({stage})" + (f" on {referee.data.name}" if other else "")
        print(
            f"{found.name} {where}{' re-ranked' if rerank else ''}: mAP {metrics['mAP']:.1f}  "
            f"Rank-1 {metrics['rank1']:.1f}  Rank-5 {metrics['rank5']:.1f}  "
            f"Rank-10 {metrics['rank10']:.1f}  mINP {metrics['mINP']:.1f}"
        )
    return result


def choose(config: dict[str, Any], changes: Sequence[str]) -> bool:
    """Apply `dataset=NAME` and `dataset.KEY=VALUE` to a run's configuration.

    Returns:
        Whether a data set was named: one with the settings of its own page, not the run's.

    Raises:
        ConfigError: something else, or an option or data set that does not exist.
    """
    named = [change for change in changes if change.startswith("dataset=")]
    for change in named:
        name = change.partition("=")[2]
        if BETWEEN in name or "[" in name:
            raise ConfigError(f"'{change}': one data set at a time.", "Evaluate on each in turn.")
        config["dataset"] = settings(name, plugins.register()["datasets"])
    for change in changes:
        if change in named:
            continue
        key, _, value = change.partition("=")
        *path, last = key.removeprefix("dataset.").split(".")
        if not key.startswith("dataset.") or not value:
            raise ConfigError(f"'{change}' is not dataset.KEY=VALUE.")
        section = config["dataset"]
        for step in path:
            section = section.get(step) if isinstance(section, dict) else None
        if not isinstance(section, dict) or last not in section:
            raise ConfigError(
                f"There is no option '{key}'.", did_you_mean(last, section or config["dataset"])
            )
        section[last] = yaml.safe_load(value)
    missing = [key for key, value in config["dataset"].items() if value == "???"] if named else []
    if missing:
        raise ConfigError(
            f"No value was given for dataset.{missing[0]}.",
            f"Give one: dataset.{missing[0]}=VALUE.",
        )
    return bool(named)
