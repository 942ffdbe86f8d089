"""Naming data sets in configurations: one, several at once, and those of finished runs.

`dataset=[market1501,msmt17]` is short for `dataset=market1501+msmt17`, an option of the Hydra group
like any other, made when it is asked for; sweeps can have several: `-m dataset=[a,b],c`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from harness.core import plugins
from harness.core.errors import ConfigError, did_you_mean
from harness.core.plugins import Plugin

BETWEEN = "+"
TARGET = "harness.data.joined.JoinedDataset"
#: settings of a data set that are its run's, not its loader's
OUTSIDE = ("name", "on_bad_image", "defaults")
_LIST = re.compile(r"\[\s*([\w.+-]+(?:\s*,\s*[\w.+-]+)*)\s*\]")
_JOINED = re.compile(r"[\w.-]+(?:\+[\w.-]+)+")


def normal(argument: str) -> str:
    """`dataset=[a,b]` as `dataset=a+b`; other arguments as they are."""
    key, equals, value = argument.partition("=")
    if key != "dataset" or not equals:
        return argument
    joined = _LIST.sub(lambda found: BETWEEN.join(re.split(r"\s*,\s*", found[1])), value)
    return f"{key}={joined}"


def register(arguments: Sequence[str]) -> None:
    """Put the combinations that arguments ask for into Hydra's `ConfigStore`, beside single sets.

    Raises:
        ConfigError: one of the data sets does not exist.
    """
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "dataset":
            for name in _JOINED.findall(value):
                node = joined(name.split(BETWEEN), plugins.find()["datasets"])
                store = ConfigStore.instance()
                store.store(group="dataset", name=name, node=node, package="_global_")


def joined(names: Sequence[str], known: Mapping[str, Plugin]) -> dict[str, Any]:
    """The configuration of several data sets: `dataset.sets.NAME.KEY` changes one of them. What the
    first overrides outside of its own section holds for all.

    Raises:
        ConfigError: one does not exist.
    """
    sets: dict[str, Any] = {}
    defaults: list[Any] = []
    for position, name in enumerate(names):
        own = settings(name, known)
        if position == 0:
            defaults = own.get("defaults", [])
        sets[_new(name, sets)] = {k: v for k, v in own.items() if k not in OUTSIDE}
    section = {"_target_": TARGET, "name": BETWEEN.join(names), "on_bad_image": "error"}
    return {"defaults": defaults, "dataset": section | {"sets": sets}}


def _new(name: str, taken: Mapping[str, Any]) -> str:
    """The name, or with a number behind it where it is taken: one set with other options."""
    number, found = 2, name
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    return found


def settings(name: str, known: Mapping[str, Plugin]) -> dict[str, Any]:
    """What a data set's own config.yaml says.

    Raises:
        ConfigError: there is no such data set.
    """
    if name not in known:
        raise ConfigError(f"There is no dataset '{name}'.", did_you_mean(name, known))
    node = plugins.load_config(known[name].folder / "config.yaml")
    own = OmegaConf.to_container(node, resolve=False)
    assert isinstance(own, dict)
    return {str(key): value for key, value in own.items()}


def complete(recorded: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The section `dataset` of a finished run, which holds no places, made whole again: what is to
    be built, with images looked for under `root`.

    Raises:
        ConfigError: one of the data sets is not installed.
    """
    known = plugins.register()["datasets"]
    if "sets" in recorded:
        names = str(recorded["name"]).split(BETWEEN)
        sets = zip(recorded["sets"].items(), names, strict=True)
        return {
            "_target_": TARGET,
            "sets": {key: _whole(name, inner, root, known) for (key, inner), name in sets},
        }
    return _whole(str(recorded["name"]), recorded, root, known)


def _whole(
    name: str, recorded: Mapping[str, Any], root: Path, known: Mapping[str, Plugin]
) -> dict[str, Any]:
    whole = settings(name, known) | dict(recorded)
    whole = {key: value for key, value in whole.items() if key not in OUTSIDE}
    return whole | ({"root": str(root)} if "root" in whole else {})


def sections(dataset: Mapping[str, Any]) -> list[Any]:
    """The sections of single data sets in a section `dataset`: itself, or those in `sets`, the one
    that is tested on first.
    """
    return list(dataset["sets"].values()) if "sets" in dataset else [dataset]
