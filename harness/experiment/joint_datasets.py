"""Data sets in configurations: one, more than one at once, and those of finished runs.

`dataset=[market1501,msmt17]` is short for `dataset=market1501+msmt17`, an option of the group
`dataset` that is registered when an argument names it. Sweeps may use it: `-m dataset=[a,b],c`.
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
#: settings in a data set's section that its loader does not take
OUTSIDE = ("name", "on_bad_image", "defaults")
_LIST = re.compile(r"\[\s*([\w.+-]+(?:\s*,\s*[\w.+-]+)*)\s*\]")
_JOINED = re.compile(r"[\w.-]+(?:\+[\w.-]+)+")


def normal(argument: str) -> str:
    """`dataset=[a,b]` as `dataset=a+b`; other arguments unchanged."""
    if not argument.startswith("dataset="):
        return argument
    return _LIST.sub(lambda found: BETWEEN.join(re.split(r"\s*,\s*", found[1])), argument)


def register(arguments: Sequence[str]) -> None:
    """Register the combinations that arguments name with Hydra, beside the single data sets.

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
    """The configuration of data sets that are trained on together.

    `dataset.sets.NAME.KEY` changes one of them. What the first one overrides outside its own
    section holds for all.

    Raises:
        ConfigError: one of the data sets does not exist.
    """
    sets: dict[str, Any] = {}
    for name in names:
        own = {k: v for k, v in settings(name, known).items() if k not in OUTSIDE}
        key, number = name, 2
        while key in sets:  # one data set twice, with other options
            key, number = f"{name}_{number}", number + 1
        sets[key] = own
    section = {"_target_": TARGET, "name": BETWEEN.join(names), "on_bad_image": "error"}
    defaults = settings(names[0], known).get("defaults", [])
    return {"defaults": defaults, "dataset": section | {"sets": sets}}


def settings(name: str, known: Mapping[str, Plugin]) -> dict[str, Any]:
    """The content of a data set's config.yaml.

    Raises:
        ConfigError: there is no such data set.
    """
    if name not in known:
        raise ConfigError(f"There is no dataset '{name}'.", did_you_mean(name, known))
    node = plugins.load_config(known[name].folder / "config.yaml")
    own: Any = OmegaConf.to_container(node, resolve=False)
    return dict(own)


def complete(recorded: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The section `dataset` of a finished run, ready to be built.

    Records hold no paths: images are looked for under `root`.

    Raises:
        ConfigError: one of the data sets is not installed.
    """
    known = plugins.find()["datasets"]
    plugins.make_importable(plugins.find())
    names = plugin_names(recorded)

    def whole(name: str, section: Mapping[str, Any]) -> dict[str, Any]:
        own = settings(name, known) | dict(section)
        own = {key: value for key, value in own.items() if key not in OUTSIDE}
        return own | ({"root": str(root)} if "root" in own else {})

    if "sets" not in recorded:
        return whole(names[0], recorded)
    sets = zip(recorded["sets"].items(), names, strict=True)
    return {"_target_": TARGET, "sets": {key: whole(name, own) for (key, own), name in sets}}


def sections(dataset: Mapping[str, Any]) -> list[Any]:
    """The sections of single data sets in a section `dataset`; the first is tested on."""
    return list(dataset["sets"].values()) if "sets" in dataset else [dataset]


def plugin_names(dataset: Mapping[str, Any]) -> list[str]:
    """The plug-ins' names of `sections`, whatever `dataset.name=` was given."""
    parts, names = sections(dataset), str(dataset["name"]).split(BETWEEN)
    if len(names) != len(parts):
        names = [""] * len(parts)
    known = plugins.find()["datasets"]
    return [
        plugins.dataset_name(name, str(part.get("_target_")), known)
        for name, part in zip(names, parts, strict=True)
    ]
