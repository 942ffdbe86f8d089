"""The parts, methods, data sets and protocols that are installed here.

A submission's strings are only looked up in them: nothing else is imported or built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.core import plugins
from harness.core.paths import CONF
from harness.experiment import joint_datasets
from harness.experiment.registration import register
from harness.experiment.stages import PLUGS

#: a part of a plug-in that may not be installed here
OF_PLUGIN = re.compile(r"harness_plugins\.(?:methods|datasets)\.\w{1,100}(?:\.\w{1,100}){1,4}")
PLACES = (*PLUGS, "dataset")


@dataclass(frozen=True)
class Installed:
    """targets: place of a configuration (`labeler`, `dataset`) → what its `_target_` may be.
    methods: `method.name` → the option of `method=`. protocols: `protocol.name` → the override
    that chooses it.
    """

    targets: Mapping[str, frozenset[str]]
    methods: Mapping[str, str]
    datasets: frozenset[str]
    protocols: Mapping[str, str]


def installed(built_in: bool = False) -> Installed:
    """What is installed, or only what the harness comes with."""
    found = register()
    if built_in:
        found = {
            kind: {name: plugin for name, plugin in some.items() if plugin.origin == "built in"}
            for kind, some in found.items()
        }
    options = {group: plugins.options(group) for group in (*PLUGS, "protocol", "experiment")}
    if built_in:
        options = {
            group: {name: path for name, path in some.items() if CONF in path.parents}
            for group, some in options.items()
        }
    targets: dict[str, set[str]] = {place: set() for place in PLACES}
    for group in PLUGS:
        for path in options[group].values():
            targets[group] |= set(_targets(plugins.load_config(path)))
    methods: dict[str, str] = {}
    for name, plugin in found["methods"].items():
        own = [plugin.folder / "config.yaml", *plugin.variants.values()]
        for part in PLUGS:
            targets[part] |= {target for path in own for target in _of_part(path, part)}
        methods[name] = name
        methods |= {f"{name}_{variant}": f"{name}/{variant}" for variant in plugin.variants}
    targets["dataset"] = {joint_datasets.TARGET}
    for plugin in found["datasets"].values():
        targets["dataset"] |= set(_targets(plugins.load_config(plugin.folder / "config.yaml")))
    named = {name: f"protocol={name}" for name in options["protocol"]}
    for name, path in options["experiment"].items():
        shown = OmegaConf.select(plugins.load_config(path), "protocol.name")
        named.setdefault(str(shown or name), f"+experiment={name}")
    return Installed(
        {place: frozenset(some) for place, some in targets.items()},
        methods, frozenset(found["datasets"]), named,
    )  # fmt: skip


def _targets(node: Any) -> Iterator[str]:
    """All `_target_` of a configuration, at any depth."""
    if isinstance(node, DictConfig):
        node = OmegaConf.to_container(node, resolve=False)
    if isinstance(node, dict | list):
        if isinstance(node, dict) and isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for inner in node.values() if isinstance(node, dict) else node:
            yield from _targets(inner)


def _of_part(path: Any, part: str) -> Iterator[str]:
    """The `_target_` of a part in a method's configuration, its stages included."""
    node: Any = OmegaConf.to_container(plugins.load_config(path), resolve=False)
    stages = node.get("stages")
    for section in (node, *(stages.values() if isinstance(stages, dict) else ())):
        if isinstance(section, dict):
            yield from _targets(section.get(part))


def named_targets(config: Mapping[str, Any]) -> Iterator[tuple[str, str, object]]:
    """(key, place, value) of every `_target_` in a config.json that stands where one may stand."""
    nodes = [("", config)]
    stages = config.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        if isinstance(stage, dict):
            nodes.append((f"stages.{name}.", stage))
    for prefix, node in nodes:
        for part in PLUGS:
            section = node.get(part)
            if isinstance(section, dict) and "_target_" in section:
                yield f"{prefix}{part}._target_", part, section["_target_"]
    for key in ("dataset", "source"):
        section = config.get(key)
        if isinstance(section, dict) and "_target_" in section:
            yield f"{key}._target_", "dataset", section["_target_"]
    data = config.get("dataset")
    if isinstance(data, dict):
        sets = data.get("sets")
        for name, section in sets.items() if isinstance(sets, dict) else ():
            if isinstance(section, dict) and "_target_" in section:
                yield f"dataset.sets.{name}._target_", "dataset", section["_target_"]


def of_plugins(config: Mapping[str, Any]) -> list[str]:
    """What of a configuration does not come with the harness: methods, data sets, parts."""
    own = installed(built_in=True)
    method, dataset = config["method"]["name"], config["dataset"]
    found = [] if method in own.methods else [f"method {method}"]
    names = joint_datasets.plugin_names(dataset)
    if config.get("source") is not None:
        names = [*names, *joint_datasets.plugin_names(config["source"])]
    found += [f"dataset {name}" for name in names if name not in own.datasets]
    for key, place, target in named_targets(config):
        if target is not None and target not in own.targets[place] and place != "dataset":
            found.append(f"{key.removesuffix('._target_')} {target}")
    return found
