"""The reference of all options: `harness list options` and docs/options.md.

Everything in it comes from declarations: the sections of a configuration
(`harness.experiment.sections`), the constructors of parts and data sets, and the defaults in their
YAML files.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.utils import get_object
from omegaconf import OmegaConf

from harness.core import plugins
from harness.core.errors import ConfigError, did_you_mean
from harness.core.options import REQUIRED, Option, options_of
from harness.core.paths import CONF
from harness.experiment.sections import SECTIONS, Settings

HEAD = """\
# Options

Every option of `harness run`, with its kind, range, default and meaning. This page is generated:
`harness list options --format markdown --output docs/options.md`. A method, data set or protocol
may have other defaults: `harness run method=NAME --cfg job` shows them all.
"""


@dataclass(frozen=True)
class Group:
    """Options that belong together. prefix: before each option's name ("labeler.")."""

    title: str
    prefix: str
    meaning: str
    options: tuple[Option, ...]


def groups(name: str | None = None) -> list[Group]:
    """All groups of options, or those of one section, part or data set.

    Args:
        name: for example `train`, `labeler`, `jaccard_dbscan` or `dataset`.

    Raises:
        ConfigError: there is no such group.
    """
    found = list(_groups())
    names = [{g.prefix.removesuffix(".") or "top", g.title.rpartition("=")[2]} for g in found]
    chosen = [group for group, own in zip(found, names, strict=True) if name in (None, *own)]
    if name and not chosen:
        raise ConfigError(
            f"There are no options of '{name}'.", did_you_mean(name, set().union(*names))
        )
    return chosen


def _groups() -> Iterator[Group]:
    defaults = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    yield Group("top", "", _first_line(Settings), tuple(_with_defaults(Settings, defaults)))
    for name, section in SECTIONS.items():
        options = tuple(_with_defaults(section, defaults.get(name) or {}))
        yield Group(name, f"{name}.", _first_line(section), options)
    found = plugins.find()
    plugins.make_importable(found)
    for part in plugins.PART_GROUPS:
        for name, path in sorted(plugins.options(part).items()):
            yield from _part(part, name, path)
    for name, plugin in sorted(found["datasets"].items()):
        yield from _part("dataset", name, plugin.folder / "config.yaml")


def _part(part: str, name: str, path: Path) -> Iterator[Group]:
    values: Any = OmegaConf.to_container(plugins.load_config(path), resolve=False)
    if values.get("_target_"):
        target = get_object(values["_target_"])
        options = tuple(o for o in _with_defaults(target, values) if o.name in values)
        yield Group(f"{part}={name}", f"{part}.", _first_line(target), options)


def _with_defaults(target: Any, defaults: dict[Any, Any]) -> Iterator[Option]:
    """The options of a target with the defaults of its YAML file."""
    for option in options_of(target):
        yield replace(option, default=defaults.get(option.name, option.default))


def _first_line(target: Any) -> str:
    return " ".join(str(target.__doc__ or "").split("\n\n")[0].split())


def shown_default(option: Option) -> str:
    """The default as the command line takes it; '' if a value has to be given."""
    if option.default is REQUIRED or option.default == "???":
        return ""
    if isinstance(option.default, str):
        return option.default
    return yaml.safe_dump(option.default, default_flow_style=True).removesuffix("\n...\n").strip()


def show(name: str | None = None) -> None:
    """Print options for the terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for group in groups(name):
        table = Table(box=None, pad_edge=False, title=group.title, title_justify="left")
        for heading in ("option", "default", "kind and range", "meaning"):
            table.add_column(heading, no_wrap=heading == "option", overflow="fold")
        for option in group.options:
            allowed = ", ".join(filter(None, (option.kind, option.range)))
            key = f"{group.prefix}{option.name}"
            table.add_row(key, shown_default(option), allowed, option.meaning)
        console.print(table, markup=False)
        console.print()


def markdown(name: str | None = None) -> str:
    """docs/options.md, or the options of one group."""
    head = ["| option | kind | range | default | meaning |", "| --- | --- | --- | --- | --- |"]
    lines = [HEAD]
    for group in groups(name):
        lines += [f"## {group.title}", "", group.meaning, "", *(head if group.options else [])]
        for option in group.options:
            default = shown_default(option)
            cells = (
                f"`{group.prefix}{option.name}`", option.kind, option.range,
                f"`{default}`" if default else "", option.meaning,
            )  # fmt: skip
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"
