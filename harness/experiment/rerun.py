"""`harness rerun`: give the commands of failed and unfinished runs again, from their config.json.

Records hold no places, so these come from where the command is given: the data root, the device,
and the files of weights, which are known by name and digest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from harness.components.backbones import describe_weights
from harness.core import plugins
from harness.core.errors import ConfigError, HarnessError, did_you_mean
from harness.core.precision import resolve_device, resolve_precision
from harness.experiment.joint_datasets import BETWEEN, sections
from harness.experiment.plan import make_plan
from harness.experiment.registration import register
from harness.experiment.run import run_experiment
from harness.results.run_status import state
from harness.results.store import Run, Store

#: what may be said anew: where things are, and how a run goes about it
PLACES = ("data.root", "data.cache_dir", "device", "threads", "log", "backbone.weights")
RERUN = ("failed", "unfinished")


def rerun(
    runs: Sequence[str] = (),
    changes: Sequence[str] = (),
    failed: bool = False,
    store: str = "results/runs",
) -> list[Run]:
    """Run cells again, one after the other; one that fails does not keep the others.

    Args:
        runs: names, or beginnings of names; none for all that failed or are unfinished.
        changes: KEY=VALUE for a key of `PLACES`.
        failed: only those that failed.

    Returns:
        The runs that are finished now.

    Raises:
        ConfigError: nothing to run again, or a change of something else.
        HarnessError: some failed again.
    """
    register()
    folder = Store(Path(store).expanduser())
    said = dict(_read(change) for change in changes)
    wanted = [folder.find(name) for name in runs] if runs else list(folder.runs())
    kinds = {run.name: state(run).kind for run in wanted}
    for run in wanted if runs else ():
        if kinds[run.name] not in RERUN:
            raise ConfigError(
                f"{run.name} is {kinds[run.name]}.",
                "What failed or is unfinished is run again; the rest with harness run "
                "overwrite=always.",
            )
    allowed = ("failed",) if failed else RERUN
    wanted = [run for run in wanted if kinds[run.name] in allowed]
    if not wanted:
        raise ConfigError(
            f"No run in {folder.folder} {'failed' if failed else 'failed or is unfinished'}.",
            "harness rerun without --failed goes on with what was stopped."
            if failed and "unfinished" in kinds.values()
            else "harness list runs shows how far each has come.",
        )
    done, wrong = [], []
    for run in wanted:
        try:
            done.append(run_experiment(restored(run, said)))
        except HarnessError as error:  # as in a multirun, the others go on
            print(f"error: {run.name}: {error}", file=sys.stderr)
            wrong.append(run.name)
    if wrong:
        raise HarnessError(f"{len(wrong)} of {len(wanted)} failed: {', '.join(wrong)}.")
    return done


def _read(change: str) -> tuple[str, Any]:
    key, sign, value = change.partition("=")
    if not sign or key not in PLACES:
        raise ConfigError(
            f"'{change}': a rerun has its run's settings.",
            did_you_mean(key, PLACES) or f"Say where things are: {', '.join(PLACES)}.",
        )
    return key, yaml.safe_load(value)


def restored(run: Run, said: dict[str, Any]) -> DictConfig:
    """The configuration that a run was given, with the places of here and now.

    Args:
        said: what the command says of `PLACES`.

    Raises:
        HarnessError: it cannot be had: no config.json, weights or a data set that are not there, or
            settings that an older version wrote and this one reads otherwise.
    """
    config = run.config()
    teachers = dict(config.pop("teachers", {}))
    config["evaluation"]["keep_features"] = False
    config["train"]["micro_batch"] = "auto"
    root = said.get("data.root") or os.environ.get("HARNESS_DATA", "data")
    config |= {
        "data": {"root": str(root), "cache_dir": said.get("data.cache_dir"), "cache_location": "auto"},
        "init": str(config["init"]).split(" ")[0] if config.get("init") else None,
        "store": str(run.folder.parent), "name": None, "overwrite": "skip",
        "log": said.get("log", "none"), "device": said.get("device", "auto"),
        "threads": said.get("threads", 0),
    }  # fmt: skip
    config["dataset"] = _dataset(config["dataset"], str(root))
    for stage, node in _nodes(config):
        distiller, backbone = node.get("distiller") or {}, node.get("backbone") or {}
        if distiller.get("teacher") == "a finished run":
            described = teachers.get(stage) or next(iter(teachers.values()))
            distiller["teacher"] = described.split(" ")[0]
        if "sha256:" in str(backbone.get("weights")):
            backbone["weights"] = _weights(str(backbone["weights"]), str(root), said)
    made = OmegaConf.create(config)
    own = _name(made)
    if own != run.name:
        if run.name.startswith(own.rpartition("-")[0]):
            raise ConfigError(
                f"{run.name} cannot be restored from its config.json: that gives {own}.",
                "Give its command itself again.",
            )
        made.name = run.name  # it was called so by name=
    return made


def _name(config: DictConfig) -> str:
    precision = resolve_precision(str(config.train.precision), resolve_device(str(config.device)))
    return make_plan(config, precision).name


def _nodes(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The configuration itself and what each of its stages changes."""
    yield "", config
    for stage, changes in (config.get("stages") or {}).items():
        yield stage, changes or {}


def _dataset(node: dict[str, Any], root: str) -> dict[str, Any]:
    """The run's data set, looked for under `root`."""
    found = plugins.find()["datasets"]
    for name, section in zip(str(node["name"]).split(BETWEEN), sections(node), strict=True):
        if name not in found:
            raise ConfigError(
                f"Data set '{name}' is not installed here.", did_you_mean(name, found)
            )
        if "root" in plugins.load_config(found[name].folder / "config.yaml"):
            section["root"] = root
    return node


def _weights(described: str, root: str, said: dict[str, Any]) -> str:
    """The file that a configuration describes as `NAME sha256:DIGEST`.

    Raises:
        ConfigError: it is in none of the places where it might be.
    """
    name = described.split(" ")[0]
    if (given := said.get("backbone.weights")) is not None:
        if describe_weights(str(given)) != described:
            raise ConfigError(
                f"backbone.weights={given} is {describe_weights(str(given))}.",
                f"The run was given {described}.",
            )
        return str(Path(str(given)).expanduser().absolute())
    places = (Path(), Path(root).expanduser(), Path(torch.hub.get_dir()) / "checkpoints")
    for folder in places:
        if (folder / name).is_file() and describe_weights(str(folder / name)) == described:
            return str((folder / name).absolute())
    raise ConfigError(
        f"The weights {described} are not here.",
        f"Say where: backbone.weights=FILE (looked in {', '.join(map(str, places))}).",
    )
