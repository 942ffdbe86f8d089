"""Find plug-ins and make their code importable: a folder with a `config.yaml` is a plug-in.

Plug-ins are methods and data sets. Earlier places take precedence over later ones:
  1. `--plugins DIR` and `HARNESS_PLUGINS` (a path list): `DIR/methods/*`, `DIR/datasets/*`;
  2. packages that declare an entry point in the group `harness.plugins`, whose value is a
     package with the folders `methods/` and `datasets/`;
  3. the checkout that `harness` is imported from, or the installed wheel.
Python files of a plug-in are imported as `harness_plugins.methods.<name>.<file>` (`.datasets.`
likewise). `methods/` and `datasets/` themselves never become importable packages.
The first two places may also hold parts, protocols and experiments: `DIR/conf/labeler/NAME.yaml`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError, first_line
from harness.core.files import expanded
from harness.core.paths import CONF, shipped

KINDS = ("methods", "datasets")
#: configuration groups of the parts of a method
PART_GROUPS = ("backbone", "labeler", "objective", "distiller")
#: configuration groups that `DIR/conf/GROUP/NAME.yaml` of a plug-in folder adds options to
CONF_GROUPS = (*PART_GROUPS, "protocol", "experiment", "source")
ALIAS = "harness_plugins"


@dataclass(frozen=True)
class Plugin:
    """A method or data set: its kind ("methods"), name, folder, and where the folder was found."""

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
        paragraphs = readme.read_text(encoding="utf-8").split("\n\n")
        text = next((p.strip() for p in paragraphs if p.strip() and p.lstrip()[0] != "#"), "")
        return first_sentence(text)

    @property
    def variants(self) -> dict[str, Path]:
        """Variants of a method: name → file. `method=METHOD/VARIANT` chooses one."""
        files = sorted(self.folder.glob("variants/*.yaml")) if self.kind == "methods" else []
        return {path.stem: path for path in files}

    @property
    def titles(self) -> dict[str, str]:
        """Names in records, its own and those of its variants → how papers write them.

        The title is the heading of its README up to a colon, or the name. That of a variant is in
        a line `# @title TITLE` of its file, or the method's title with the variant's name.
        """
        readme = self.folder / "README.md"
        text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
        heading = re.match(r"# ([^:\n]*[^:\s])", text)
        found = {self.name: heading[1] if heading else self.name}
        for variant, path in self.variants.items():
            own = re.search(r"^# @title (.*\S)", path.read_text(encoding="utf-8"), re.MULTILINE)
            title = f"{found[self.name]} ({variant.replace('_', ' ')})"
            found[f"{self.name}_{variant}"] = own[1] if own else title
        return found


def first_sentence(text: str) -> str:
    """The first sentence of a Markdown text, on one line and without its full stop."""
    plain = re.sub(r"\[([^]]+)]\([^)]*\)", r"\1", " ".join(text.split()))  # links
    return re.split(r"\.\s+(?=[A-Z`])", plain)[0].rstrip(".")


def user_roots(extra: Sequence[str] = ()) -> list[Path]:
    """Folders that the user named, `extra` first.

    Raises ConfigError if one does not exist, or holds no `methods/`, `datasets/` or `conf/`.
    """
    named = [*extra, *os.environ.get("HARNESS_PLUGINS", "").split(os.pathsep)]
    roots = [expanded(name).resolve() for name in named if name]
    for root in roots:
        if not root.is_dir():
            hint = "Check --plugins and HARNESS_PLUGINS."
            raise ConfigError(f"The plug-in folder {root} does not exist.", hint)
        if not any((root / name).is_dir() for name in (*KINDS, "conf")):
            problem = f"The plug-in folder {root} has neither methods/ nor datasets/ nor conf/."
            hint = f"A method is a folder {root}/methods/NAME with a config.yaml."
            raise ConfigError(problem, hint)
    return list(dict.fromkeys(roots))


@cache
def _declared(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of packages in `sys.path`, which is slow to scan."""
    return tuple(entry_points(group="harness.plugins"))


def _package_roots() -> Iterator[tuple[str, Path]]:
    """(origin, folder) of installed packages with plug-ins."""
    for entry in _declared(tuple(sys.path)):
        try:
            spec = importlib.util.find_spec(entry.value)
        except ImportError:  # the parent of a dotted name is missing
            spec = None
        if spec is None:
            problem = f"its entry point names {entry.value}, which cannot be imported"
            raise ConfigError(
                f"The plug-in package '{entry.name}' cannot be found: {problem}.",
                "Reinstall or uninstall the package.",
            )
        for place in spec.submodule_search_locations or ():
            yield f"package {entry.name}", Path(place)


def added_roots(extra: Sequence[str] = ()) -> list[tuple[str, Path]]:
    """(origin, folder) of all plug-in folders beyond the built-in ones, in order of precedence."""
    return [*(("user", root) for root in user_roots(extra)), *_package_roots()]


def find(extra: Sequence[str] = ()) -> dict[str, dict[str, Plugin]]:
    """All methods and data sets: kind → name → plug-in.

    Raises ConfigError if two places of equal precedence hold the same name.
    """
    found: dict[str, dict[str, Plugin]] = {kind: {} for kind in KINDS}
    for origin, root in [*added_roots(extra), ("built in", shipped("methods", "").parent)]:
        for kind in KINDS:
            for config in sorted((root / kind).glob("*/config.yaml")):
                name = config.parent.name
                plugin = Plugin(kind, name, config.parent, origin)
                other = found[kind].setdefault(name, plugin)
                # "package a" and "package b" have equal precedence
                equal = other.origin.split()[0] == plugin.origin.split()[0]
                if other.folder != plugin.folder and equal:
                    both = f"{other.folder} and {plugin.folder}"
                    problem = f"Two plug-ins are named '{name}': {both}."
                    raise ConfigError(problem, "Rename one of the folders.")
    return found


def dataset_name(name: str, target: str, known: Container[str]) -> str:
    """The name of a data set's plug-in in a run's configuration, where `dataset.name=` may have
    replaced `name`: that in the path of its loader, `target`. `known` are all plug-ins' names.
    """
    segments = target.split(".")
    replaced = segments[:2] == [ALIAS, "datasets"] and name not in known
    return segments[2] if replaced else name


def options(group: str, extra: Sequence[str] = ()) -> dict[str, Path]:
    """Options of a configuration group in CONF_GROUPS: name → file, built-in ones first.

    Raises ConfigError if a plug-in folder has a file of a name that exists already.
    """
    found = {path.stem: path for path in sorted((CONF / group).glob("*.yaml"))}
    for _, root in added_roots(extra):
        for path in sorted((root / "conf" / group).glob("*.yaml")):
            if found.setdefault(path.stem, path) != path:
                problem = f"There is already a {group} '{path.stem}': {found[path.stem]}."
                raise ConfigError(problem, f"Rename {path}.")
    return found


def make_importable(found: dict[str, dict[str, Plugin]]) -> None:
    """Make Python files of plug-ins importable: a namespace package per kind spans them."""
    packages: dict[str, list[str]] = {ALIAS: []}
    for kind, plugins in found.items():
        folders = (str(plugin.folder.parent) for plugin in plugins.values())
        packages[f"{ALIAS}.{kind}"] = list(dict.fromkeys(folders))
    for name, paths in packages.items():
        sys.modules.setdefault(name, ModuleType(name)).__path__ = paths


def load_config(path: Path) -> DictConfig:
    """Read a configuration file of a plug-in. Raises ConfigError if it is not a YAML mapping."""
    try:
        node = OmegaConf.load(path)
    except Exception as error:
        raise ConfigError(f"{path} is not valid YAML: {first_line(error)}") from error
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{path} must hold keys and values.")
    return node
