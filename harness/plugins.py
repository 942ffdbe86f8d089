"""Finds methods and data sets: a folder with a `config.yaml` is a plug-in, nothing else is needed.

Folders are looked for, in this order of precedence,
  1. in `--plugins DIR` and `HARNESS_PLUGINS` (a path list): `DIR/methods/*`, `DIR/datasets/*`;
  2. in packages that declare an entry point in group `harness.plugins` (its value is a package
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

from harness.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.config_store import ConfigStore

#: folder of plug-ins → the Hydra group that it fills
GROUPS = {"methods": "method", "datasets": "dataset"}
#: the parts whose options differ, and what conf/config.yaml chooses unless a method does
PARTS = {"labeler": "jaccard_dbscan", "objective": "cluster_memory", "distiller": "none"}
ALIAS = "harness_plugins"


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
    for entry in entry_points(group="harness.plugins"):
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
    package = Path(__file__).resolve().parent
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "methods").is_dir():
        yield "built in", {kind: checkout / kind for kind in GROUPS}
    else:
        yield "built in", {kind: package / "_bundled" / kind for kind in GROUPS}


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
    chosen = {**PARTS, "backbone": "resnet50"}
    for entry in node.get("defaults") or []:
        if isinstance(entry, DictConfig):
            for key, value in entry.items():
                chosen[str(key).removeprefix("override /")] = value
    for part in PARTS:
        if isinstance(node.get(part), DictConfig):
            own = OmegaConf.create({part: node.pop(part)})
            name = f"{method}-{chosen[part]}"
            store.store(group=f"own_{part}", name=name, node=own, package="_global_")
    if "published" in node:
        own = node.pop("published")
        if not isinstance(own, DictConfig) or list(own) != ["backbone"]:
            raise ConfigError(
                f"{path}: `published` must hold a section `backbone`, and nothing else.",
                "Everything else of a method's config is what protocol=published takes, anyway.",
            )
        name = f"{method}-{chosen['backbone']}-published"
        store.store(group="own_backbone", name=name, node=own, package="_global_")


def register(extra: Sequence[str] = ()) -> dict[str, dict[str, Plugin]]:
    """Find the plug-ins, make them importable, and put their configs into Hydra's `ConfigStore`.

    A method's config is merged at the top of the configuration, a data set's under `dataset`.

    Raises:
        ConfigError: a config.yaml that is no valid YAML mapping; names the file.
    """
    from hydra.core.config_store import ConfigStore  # slow, and `harness label` needs none of it

    found = find(extra)
    make_importable(found)
    store = ConfigStore.instance()
    for part in ("backbone", *PARTS):
        store.repo.get(f"own_{part}", {}).clear()
    for kind, plugins in found.items():
        store.repo.get(GROUPS[kind], {}).clear()  # a folder that is no longer named is gone
        for plugin in plugins.values():
            path = plugin.folder / "config.yaml"
            try:
                node = OmegaConf.load(path)
            except Exception as error:
                raise ConfigError(f"{path} is not valid YAML: {error}") from error
            if not isinstance(node, DictConfig):
                raise ConfigError(f"{path} must hold keys and values.")
            if kind == "datasets":
                # Nested by hand: a config whose package is `dataset` could not override /protocol.
                defaults = node.pop("defaults", [])
                node = OmegaConf.create({"defaults": defaults, "dataset": node})
            else:
                _only_with_its_parts(store, plugin.name, node, path)
            store.store(group=GROUPS[kind], name=plugin.name, node=node, package="_global_")
    return found
