"""Finds methods and data sets: a folder with a `config.yaml` is a plug-in, nothing else is needed.

Folders are looked for, in this order of precedence,
  1. in `--plugins DIR` and `HARNESS_PLUGINS` (a path list): `DIR/methods/*`, `DIR/datasets/*`;
  2. in packages that declare an entry point in group `harness.core.plugins` (its value is a package
     whose folder holds `methods/` and `datasets/`);
  3. in the checkout that `harness` is imported from, or else in the installed wheel.
Their Python files are imported as `harness_plugins.methods.<name>.<file>` (`.datasets.` likewise),
an alias: `methods/` and `datasets/` themselves never become importable packages.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError
from harness.core.paths import CHECKOUT, shipped
from harness.core.variants import PARTS, chosen_parts, overridden, vary

if TYPE_CHECKING:
    from hydra.core.config_store import ConfigStore

#: folder of plug-ins → the Hydra group that it fills
GROUPS = {"methods": "method", "datasets": "dataset"}
ALIAS = "harness_plugins"
Files = list[tuple[Path, int, int]]


@dataclass(frozen=True)
class Plugin:
    """One method or data set: its folder, and where that came from (for people)."""

    kind: str
    name: str
    folder: Path
    origin: str

    @property
    def summary(self) -> str:
        """The first sentence of its README, or an empty string."""
        readme = self.folder / "README.md"
        if not readme.is_file():
            return ""
        lines = (line.strip() for line in readme.read_text(encoding="utf-8").splitlines())
        text = next((line for line in lines if line and not line.startswith("#")), "")
        return text.split(". ")[0].rstrip(".")

    @property
    def variants(self) -> dict[str, Path]:
        """A method's variants: name → file. Chosen by `method=METHOD/VARIANT`."""
        files = sorted(self.folder.glob("variants/*.yaml")) if self.kind == "methods" else []
        return {path.stem: path for path in files}


def user_roots(extra: Sequence[str] = ()) -> list[Path]:
    """Folders named by the user, `extra` (from `--plugins`) first.

    Raises:
        ConfigError: one of them is no folder, or holds neither `methods/` nor `datasets/`.
    """
    named = [*extra, *os.environ.get("HARNESS_PLUGINS", "").split(os.pathsep)]
    roots = [Path(name).expanduser().resolve() for name in named if name]
    for root in roots:
        if not root.is_dir():
            raise ConfigError(
                f"The plug-in folder {root} does not exist.", "See --plugins, HARNESS_PLUGINS."
            )
        if not any((root / kind).is_dir() for kind in GROUPS):
            raise ConfigError(
                f"The plug-in folder {root} holds neither methods/ nor datasets/.",
                f"A method is a folder {root}/methods/NAME with a config.yaml.",
            )
    return roots


def _roots(extra: Sequence[str]) -> Iterator[tuple[str, dict[str, Path]]]:
    """Where to look, in order of precedence: (origin, kind → folder)."""
    for root in user_roots(extra):
        yield "user", {kind: root / kind for kind in GROUPS}
    for entry in entry_points(group="harness.core.plugins"):
        try:
            spec = importlib.util.find_spec(entry.value)
        except ImportError:  # the parent of a dotted name is missing
            spec = None
        if spec is None:
            raise ConfigError(
                f"The plug-in package '{entry.name}' cannot be found: its entry point names "
                f"{entry.value}, which is no importable package.",
                "Install it again, or uninstall it.",
            )
        for place in spec.submodule_search_locations or ():
            yield f"package {entry.name}", {kind: Path(place) / kind for kind in GROUPS}
    yield "built in", {kind: shipped(kind, "") for kind in GROUPS}


def find(extra: Sequence[str] = ()) -> dict[str, dict[str, Plugin]]:
    """All plug-ins: kind → name → plug-in.

    Raises:
        ConfigError: two places of equal rank hold the same name.
    """
    found: dict[str, dict[str, Plugin]] = {kind: {} for kind in GROUPS}
    for origin, folders in _roots(extra):
        for kind, folder in folders.items():
            for config in sorted(folder.glob("*/config.yaml")):
                name = config.parent.name
                plugin = Plugin(kind, name, config.parent, origin)
                other = found[kind].setdefault(name, plugin)
                # "package a" and "package b" are of one rank
                equal = other.origin.split()[0] == plugin.origin.split()[0]
                if other.folder != plugin.folder and equal:
                    raise ConfigError(
                        f"Two plug-ins are called '{name}': {other.folder} and {plugin.folder}.",
                        "Rename one of the folders.",
                    )
    return found


def _alias(name: str, paths: list[str]) -> None:
    """A namespace package called `name` that spans `paths`."""
    module = sys.modules.get(name)
    if module is None:
        module = ModuleType(name, "Plug-in folders, imported under an alias.")
        sys.modules[name] = module
    module.__path__ = paths


def make_importable(found: dict[str, dict[str, Plugin]]) -> None:
    """Let Python files of plug-ins be imported under their alias."""
    _alias(ALIAS, [])
    for kind, plugins in found.items():
        folders = dict.fromkeys(str(p.folder.parent) for p in plugins.values())
        _alias(f"{ALIAS}.{kind}", list(folders))


def _only_with_its_parts(store: ConfigStore, method: str, node: DictConfig, path: Path) -> None:
    """A method's settings for a part hold for the part that it chose, and for no other.

    With `labeler=kmeans` the eps of the method's DBSCAN is nothing to merge. So its sections are
    taken out and stored under the choice's name, where conf/config.yaml looks up the final choice.
    `published: {backbone: …}` is stored likewise: it holds for that backbone under
    `protocol=published` alone.

    Raises:
        ConfigError: `published` holds anything but a section `backbone`.
    """
    folder, _, stem = method.rpartition("/")  # of a variant, `METHOD/VARIANT`
    for part, option in chosen_parts(node).items():
        if isinstance(node.get(part), DictConfig):
            own = OmegaConf.create({part: node.pop(part)})
            group = f"method_overrides_{part}/{folder}" if folder else f"method_overrides_{part}"
            store.store(group=group, name=f"{stem}-{option}", node=own, package="_global_")
    if "published" in node:
        own = node.pop("published")
        if not isinstance(own, DictConfig) or list(own) != ["backbone"]:
            raise ConfigError(
                f"{path}: `published` must hold a section `backbone`, and nothing else.",
                "Everything else of a method's config is what protocol=published takes, anyway.",
            )
        option = overridden(node).get("backbone", "resnet50")
        group = f"method_overrides_backbone/{folder}" if folder else "method_overrides_backbone"
        name = f"{stem}-{option}-published"
        store.store(group=group, name=name, node=own, package="_global_")


def _store_search(store: ConfigStore, method: str, node: DictConfig, path: Path) -> None:
    """Take out a method's `search:` block, which `harness search` alone reads: no run has it.

    The space of a part holds for the part that the method chose, as its settings do.

    Raises:
        ConfigError: it is no mapping, or its space is none.
    """
    block = node.pop("search", None)
    if block is None:
        return
    space = block.get("space", {}) if isinstance(block, DictConfig) else None
    if not isinstance(space, DictConfig):
        raise ConfigError(f"{path}: `search` must hold `space`, and that keys and ranges.")
    folder, _, stem = method.rpartition("/")
    for part, option in chosen_parts(node).items():
        if part in space:
            own = OmegaConf.create({"search": {"space": {part: space.pop(part)}}})
            group = (
                f"method_overrides_space_{part}/{folder}"
                if folder
                else f"method_overrides_space_{part}"
            )
            store.store(group=group, name=f"{stem}-{option}", node=own, package="_global_")
    group = f"method_overrides_search/{folder}" if folder else "method_overrides_search"
    store.store(group=group, name=stem, node={"search": block}, package="_global_")


def _store_method(store: ConfigStore, plugin: Plugin, node: DictConfig) -> None:
    """A method and its variants."""
    for variant, path in plugin.variants.items():
        varied = vary(node, load_config(path), f"{plugin.name}_{variant}")
        _store_search(store, f"{plugin.name}/{variant}", varied, path)
        _only_with_its_parts(store, f"{plugin.name}/{variant}", varied, path)
        store.store(group=f"method/{plugin.name}", name=variant, node=varied, package="_global_")
    _store_search(store, plugin.name, node, plugin.folder / "config.yaml")
    _only_with_its_parts(store, plugin.name, node, plugin.folder / "config.yaml")
    store.store(group="method", name=plugin.name, node=node, package="_global_")


def load_config(path: Path) -> DictConfig:
    """A plug-in's configuration file, as it stands.

    Raises:
        ConfigError: it is no valid YAML mapping; names the file.
    """
    try:
        node = OmegaConf.load(path)
    except Exception as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{path} must hold keys and values.")
    return node


def register(extra: Sequence[str] = ()) -> dict[str, dict[str, Plugin]]:
    """Find the plug-ins, make them importable, and put their configs into Hydra's `ConfigStore`.

    A method's config is merged at the top of the configuration, a data set's under `dataset`.
    Called again with the same files, it reads none of them: each cell of a sweep calls it.

    Raises:
        ConfigError: a config.yaml that is no valid YAML mapping; names the file.
    """
    from hydra.core.config_store import ConfigStore  # slow, and `harness label` needs none of it

    found = find(extra)
    make_importable(found)
    files = _files(found)
    if _registered == [files]:
        return found
    _registered.clear()
    store = ConfigStore.instance()
    for group in (
        *GROUPS.values(), "search", "method_overrides_search", *(f"method_overrides_{part}" for part in ("backbone", *PARTS)),
        *(f"method_overrides_space_{part}" for part in PARTS),
    ):  # fmt: skip
        store.repo.get(group, {}).clear()  # a folder that is no longer named is gone
    for plugin in found["methods"].values():
        _store_method(store, plugin, load_config(plugin.folder / "config.yaml"))
    for plugin in found["datasets"].values():
        node = load_config(plugin.folder / "config.yaml")
        # Nested by hand: a config whose package is `dataset` could not override /protocol.
        defaults = node.pop("defaults", [])
        node = OmegaConf.create({"defaults": defaults, "dataset": node})
        store.store(group="dataset", name=plugin.name, node=node, package="_global_")
    for name, path in presets().items():
        store.store(group="search", name=name, node=load_config(path), package="_global_")
    _registered.append(files)
    return found


def search_folders() -> list[Path]:
    """Where finished searches lie: `HARNESS_SEARCHES` or ./results/searches, and the checkout's."""
    named = os.environ.get("HARNESS_SEARCHES") or "results/searches"
    checkout = CHECKOUT / "results" / "searches"
    return [Path(named).expanduser(), checkout]


def presets() -> dict[str, Path]:
    """What searches have found, for `+search=NAME`: the best as NAME, others of a Pareto front as
    NAME-TRIAL.
    """
    found: dict[str, Path] = {}
    for folder in search_folders():
        for path in sorted(folder.glob("*/preset*.yaml")):
            name = path.parent.name + path.stem.removeprefix("preset")
            found.setdefault(name, path)
    return found


#: the files that the `ConfigStore` was filled from, if it was
_registered: list[Files] = []


def _files(found: dict[str, dict[str, Plugin]]) -> Files:
    """All configuration files of the plug-ins, and when and how long each was written."""
    every = [plugin for plugins in found.values() for plugin in plugins.values()]
    paths = [p for x in every for p in (x.folder / "config.yaml", *x.variants.values())]
    paths += [path.absolute() for path in presets().values()]
    return [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
