"""`harness rerun`: repeat failed and unfinished runs from their config.json.

Records hold no paths, so data root, device and files of weights are given anew; weights are found
by name and digest.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from harness.components.backbones import describe_weights
from harness.core import plugins
from harness.core.errors import ConfigError, HarnessError, did_you_mean
from harness.core.files import expanded
from harness.core.options import value_of
from harness.core.precision import resolve_device, resolve_precision
from harness.experiment.joint_datasets import plugin_names, sections, settings
from harness.experiment.plan import NEUTRAL, make_plan
from harness.experiment.registration import register
from harness.experiment.run import run_experiment
from harness.results.run_status import state
from harness.results.store import Run, Store

#: options that a rerun may change, because they do not change the result
PLACES = ("data.root", "data.cache_dir", "device", "threads", "log", "backbone.weights")
RERUN = ("failed", "unfinished")


def rerun(
    runs: Sequence[str] = (),
    changes: Sequence[str] = (),
    failed: bool = False,
    store: str = "results/runs",
) -> list[Run]:
    """Run experiments again, one after the other; a failure does not stop the others.

    Args:
        runs: names, or beginnings of names; none: all that failed or are unfinished.
        changes: KEY=VALUE for keys of `PLACES`. failed: only runs that failed.

    Raises:
        ConfigError: there is nothing to run again, or another option is changed.
        HarnessError: some failed again.
    """
    register()
    folder = Store(Path(store))
    given = dict(_parse(change) for change in changes)
    chosen = [folder.find(name) for name in runs] if runs else list(folder.runs())
    states = {run.name: state(run) for run in chosen}
    kinds = {name: found.kind for name, found in states.items()}
    others = [name for name, kind in kinds.items() if kind not in RERUN] if runs else []
    if others:
        why = f" ({states[others[0]].detail})" if kinds[others[0]] == "damaged" else ""
        raise ConfigError(
            f"{others[0]} is {kinds[others[0]]}{why}.",
            "rerun takes failed and unfinished runs; use harness run overwrite=always for others.",
        )
    chosen = [run for run in chosen if kinds[run.name] in (RERUN[:1] if failed else RERUN)]
    if not chosen:
        raise ConfigError(
            f"No run in {folder.folder} {'failed' if failed else 'failed or is unfinished'}.",
            "harness rerun without --failed resumes runs that were stopped."
            if failed and "unfinished" in kinds.values()
            else "harness list runs shows the status of each.",
        )
    done, failures = [], []
    for run in chosen:
        try:
            done.append(run_experiment(restored(run, given)))
        except HarnessError as error:
            print(f"error: {run.name}: {error}", file=sys.stderr)
            failures.append(run.name)
    if failures:
        raise HarnessError(f"{len(failures)} of {len(chosen)} failed: {', '.join(failures)}.")
    return done


def _parse(change: str) -> tuple[str, Any]:
    key, sign, _ = change.partition("=")
    if not sign or key not in PLACES:
        raise ConfigError(
            f"'{change}': a rerun keeps its run's settings.",
            did_you_mean(key, PLACES) or f"These can be given: {', '.join(PLACES)}.",
        )
    return key, value_of(change)


def restored(run: Run, given: dict[str, Any]) -> DictConfig:
    """The configuration of a run, with paths and device of this machine or from `given`.

    Raises:
        HarnessError: config.json, weights or the data set are missing, or the settings have another
            meaning in this version.
    """
    config = run.complete_config()
    teachers = dict(config.pop("teachers", {}))
    root = str(given.get("data.root") or os.environ.get("HARNESS_DATA", "data"))
    config = completed(config, root, given) | {"store": str(run.folder.parent)}
    nodes = {"": config} | {stage: node or {} for stage, node in config["stages"].items()}
    for stage, node in nodes.items():
        distiller, backbone = node.get("distiller") or {}, node.get("backbone") or {}
        if distiller.get("teacher") == "a finished run":
            described = teachers.get(stage) or next(iter(teachers.values()))
            distiller["teacher"] = described.split(" ")[0]
        if "sha256:" in str(backbone.get("weights")):
            backbone["weights"] = _find_weights(str(backbone["weights"]), root, given)
    made = OmegaConf.create(config)
    device = resolve_device(str(made.device))
    name = make_plan(made, resolve_precision(str(made.train.precision), device)).name
    if name != run.name:
        if run.name.startswith(name.rpartition("-")[0]):
            raise ConfigError(
                f"{run.name} cannot be restored from its config.json, which gives {name}.",
                "Repeat its original command.",
            )
        made.name = run.name  # it was named by name=
    return made


def completed(
    config: Mapping[str, Any], root: str, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A config.json with what it leaves out: places, and options that were added since.

    Raises:
        ConfigError: its data set is not installed.
    """
    given = given or {}
    whole: dict[str, Any] = copy.deepcopy(dict(config))
    for section in ("optimizer", "batch"):
        whole[section] = NEUTRAL[section] | whole[section]
    whole["evaluation"]["keep_features"] = False
    whole["train"]["micro_batch"] = "auto"
    whole |= {
        "data": {
            "root": root, "cache_dir": given.get("data.cache_dir"), "cache_location": "auto",
        },
        "init": str(whole["init"]).split(" ")[0] if whole.get("init") else None,
        "store": "results/runs", "name": None, "overwrite": "skip",
        "log": given.get("log", "none"), "device": given.get("device", "auto"),
        "threads": given.get("threads", 0),
    }  # fmt: skip
    for data in filter(None, [whole["dataset"], whole.setdefault("source", None)]):
        _add_root(data, root)
    return whole


def _add_root(dataset: dict[str, Any], root: str) -> None:
    """Give the data sets that are files their root."""
    found = plugins.find()["datasets"]
    for name, section in zip(plugin_names(dataset), sections(dataset), strict=True):
        if "root" in settings(name, found):
            section["root"] = root


def _find_weights(described: str, root: str, given: dict[str, Any]) -> str:
    """The file that a configuration describes as `NAME sha256:DIGEST`."""
    if (chosen := given.get("backbone.weights")) is not None:
        if (other := describe_weights(str(chosen))) != described:
            raise ConfigError(
                f"backbone.weights={chosen} is {other}.", f"The run used {described}."
            )
        return str(expanded(str(chosen)).absolute())
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    places = [folder / described.split(" ")[0] for folder in (Path(), expanded(root), hub)]
    for path in places:
        if path.is_file() and describe_weights(str(path)) == described:
            return str(path.absolute())
    raise ConfigError(
        f"The weights {described} were not found.",
        f"Give backbone.weights=FILE (looked for {', '.join(map(str, places))}).",
    )
