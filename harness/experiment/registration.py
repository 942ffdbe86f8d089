"""Register plug-ins with Hydra: methods, data sets, parts, protocols and search presets.

Everything goes into Hydra's `ConfigStore`, beside the files of harness/conf. Importing this module
also registers the resolvers that configuration files use.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from harness.core import plugins
from harness.core.errors import ConfigError
from harness.core.files import expanded
from harness.core.paths import CHECKOUT, CONF
from harness.core.plugins import CONF_GROUPS, Plugin, load_config
from harness.core.variants import PROTOCOL_BLOCKS, chosen_parts, own_parts, vary
from harness.core.views import count_parts

# Hydra deep-copies its sources whenever it composes, and this singleton with them. That would copy
# all methods; it is not needed, since `load` copies what it returns.
ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]

#: the state of all files when the `ConfigStore` was last filled: path, time and size
_registered: list[tuple[Path, int, int]] = []


def register(extra: Sequence[str] = ()) -> dict[str, dict[str, Plugin]]:
    """Find all plug-ins, make them importable, and put their configurations into `ConfigStore`.

    Files are read again only if one has changed, so that each run of a sweep can call this. Returns
    methods and data sets: kind → name → plug-in.

    Raises:
        ConfigError: a file that is not a valid YAML mapping; names it.
    """
    found = plugins.find(extra)
    plugins.make_importable(found)
    added = {
        (group, name): path
        for group in CONF_GROUPS
        for name, path in plugins.options(group, extra).items()
        if CONF not in path.parents
    }
    every = [plugin for kind in found.values() for plugin in kind.values()]
    paths = [path for x in every for path in (x.folder / "config.yaml", *x.variants.values())]
    paths += [*added.values(), *presets().values()]
    files = [(path.absolute(), path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
    if files and files == _registered:
        return found
    _registered.clear()
    repo = ConfigStore.instance().repo
    for group in repo:  # a plug-in folder may no longer be named
        if group in ("method", "dataset", "source", "search", *CONF_GROUPS) or group.startswith(
            "method_"
        ):
            repo[group].clear()
    for name, plugin in found["methods"].items():
        path = plugin.folder / "config.yaml"
        for variant, changes in plugin.variants.items():
            node = vary(load_config(path), load_config(changes), f"{name}_{variant}")
            _store_method(f"{name}/{variant}", node, changes)
        _store_method(name, load_config(path), path)
    for plugin in found["datasets"].values():
        node = load_config(plugin.folder / "config.yaml")
        # nested here: a config whose package is `dataset` could not override /protocol
        defaults = node.pop("defaults", [])
        _store("dataset", plugin.name, {"defaults": defaults, "dataset": node})
        _store("source", plugin.name, {"source": node})
    for (group, name), path in added.items():
        header = re.search(r"^# @package (\S+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        _store(group, name, load_config(path), header[1] if header else None)
    for name, path in presets().items():
        _store("search", name, load_config(path))
    _registered.extend(files)
    return found


def options() -> dict[str, list[str]]:
    """Every configuration group that the command line may choose from: group → names."""
    found = plugins.find()
    known = {group: list(plugins.options(group)) for group in CONF_GROUPS}
    known["method"] = [
        name
        for plugin in found["methods"].values()
        for name in (plugin.name, *(f"{plugin.name}/{variant}" for variant in plugin.variants))
    ]
    datasets = list(found["datasets"])
    sources = [*known["source"], *datasets]
    return known | {"dataset": datasets, "source": sources, "search": list(presets())}


def search_folders() -> list[Path]:
    """Where finished searches are stored: HARNESS_SEARCHES or ./results/searches, the checkout."""
    named = os.environ.get("HARNESS_SEARCHES") or "results/searches"
    return [expanded(named), CHECKOUT / "results" / "searches"]


def presets() -> dict[str, Path]:
    """Results of searches, for `+search=NAME`: name → file.

    The best trial is NAME; other trials of a Pareto front are NAME-TRIAL.
    """
    found: dict[str, Path] = {}
    for folder in search_folders():
        for path in sorted(folder.glob("*/preset*.yaml")):
            found.setdefault(path.parent.name + path.stem.removeprefix("preset"), path)
    return found


def if_parts(value: float, *, _root_: DictConfig) -> float:
    """`${if_parts:0.2}`: the value if the backbone has part views, else 0.

    Without a loss of their own, part views would never be trained, so objectives weight them as
    MSKD does (λ2 = 0.2) as soon as there are any.
    """
    backbone = _root_.get("backbone")
    views = backbone.get("views") if isinstance(backbone, DictConfig) else None
    return value if views is not None and count_parts(views) else 0.0


OmegaConf.register_new_resolver("if_parts", if_parts, replace=True)
#: `${expanded:~/runs}`: a path with the home folder in place of `~`
OmegaConf.register_new_resolver("expanded", lambda path: str(expanded(str(path))), replace=True)


def _store(group: str, name: str, node: object, package: str | None = "_global_") -> None:
    ConfigStore.instance().store(group=group, name=name, node=node, package=package)


def _store_method(method: str, node: DictConfig, path: Path) -> None:
    """Register a method's config in pieces, each under the choice that it holds for.

    A method's settings for a part hold only for the part that it chose: with `labeler=kmeans` the
    eps of its DBSCAN must not be merged. Such sections are stored under the choice's name, and
    conf/config.yaml looks up the final choice. The defaults list is stored apart: it is composed
    after the protocol's, so that a method that chooses a backbone keeps it in every protocol.
    `published: {backbone: …}` holds for the method's backbone under `protocol=published`,
    `published: {stages: …}` for any, and `demo: {backbone: …}` makes the backbone small under
    `protocol=demo` and `debug`. The block `search:` is read by `harness search` only.

    Args:
        method: its name; `METHOD/VARIANT` of a variant. path: its file, for messages.
    """
    folder, _, stem = method.rpartition("/")

    def store_override(kind: str, name: str, settings: object) -> None:
        group = f"method_overrides_{kind}"
        _store(f"{group}/{folder}" if folder else group, name, settings)

    if "search" in node:
        search = node.pop("search")
        if not isinstance(search, DictConfig) or not isinstance(search.get("space"), DictConfig):
            raise ConfigError(f"{path}: `search` must hold `space`, with keys and their ranges.")
        for part, option in chosen_parts(node).items():
            if part in search.space:
                space = {"search": {"space": {part: search.space.pop(part)}}}
                store_override(f"space_{part}", f"{stem}-{option}", space)
        store_override("search", stem, {"search": search})
    parts = own_parts(node)
    for part, option in parts.items():
        if isinstance(node.get(part), DictConfig):
            store_override(part, f"{stem}-{option}", {part: node.pop(part)})
    for block, (protocols, known) in PROTOCOL_BLOCKS.items():
        if block not in node:
            continue
        changes = node.pop(block)
        sections = list(changes) if isinstance(changes, DictConfig) else []
        if not sections or not set(known).issuperset(map(str, sections)):
            raise ConfigError(
                f"{path}: `{block}` must hold {' or '.join(f'`{name}`' for name in known)}, and "
                "nothing else.",
                "A method's other settings are those of its config or of the protocol.",
            )
        if block == "demo" and "backbone" not in parts:
            raise ConfigError(
                f"{path}: `demo` makes a method's own backbone small, but it has none.",
                "Remove it (protocol=demo has backbone=small), or choose a backbone in `defaults`.",
            )
        stages = changes.pop("stages", None)
        for protocol in protocols:
            if stages is not None:
                store_override("stages", f"{stem}-{protocol}", {"stages": stages})
            if changes:
                option = parts.get("backbone", "resnet50")
                store_override("network", f"{stem}-{option}-{protocol}", changes)
    defaults = node.pop("defaults", [])
    _store(f"method_settings/{folder}" if folder else "method_settings", stem, node)
    _store(f"method/{folder}" if folder else "method", stem, {"defaults": defaults})
