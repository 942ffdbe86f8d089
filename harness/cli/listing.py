"""`harness list`: what there is to choose from, and what was run."""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.core import plugins
from harness.core.errors import ConfigError, did_you_mean
from harness.core.files import write_text
from harness.core.paths import CONF
from harness.results.run_status import state
from harness.results.store import Store
from harness.results.store_check import file_problems

#: plural on the command line → Hydra group
PARTS = {
    "backbones": "backbone",
    "labelers": "labeler",
    "objectives": "objective",
    "distillers": "distiller",
    "protocols": "protocol",
    "experiments": "experiment",
}
KNOWN = ("methods", "datasets", *PARTS, "crossings", "runs", "problems")


def show(what: str, store: str) -> None:
    """Print a list.

    Raises:
        ConfigError: there is no such list.
    """
    what = what if what.endswith("s") else f"{what}s"
    if what not in KNOWN:
        raise ConfigError(f"There is no list of '{what}'.", did_you_mean(what, KNOWN))
    if what in ("runs", "problems"):
        rows = _runs(store) if what == "runs" else _problems(store)
    elif what in PARTS:
        folder = CONF / PARTS[what]
        rows = [(path.stem, _comment(path)) for path in sorted(folder.glob("*.yaml"))]
    else:
        rows = []
        for plugin in sorted(plugins.find()[what].values(), key=lambda p: p.name):
            origin = "" if plugin.origin == "built in" else f" [{plugin.origin}: {plugin.folder}]"
            rows.append((plugin.name, plugin.summary + origin))
            rows += [(f"{plugin.name}/{v}", _comment(path)) for v, path in plugin.variants.items()]
    console = Console(highlight=False)
    if not rows:
        console.print(f"No {what}.")
    elif not console.is_terminal:  # for grep and cut: one line each, never wrapped
        width = max(len(name) for name, _ in rows)
        for name, text in rows:
            print(f"{name:<{width}}   {text}".rstrip())
    else:
        grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column()
        for name, text in rows:
            grid.add_row(name, text)
        console.print(grid, markup=False)


def show_crossings(style: str, output: str | None) -> None:
    """Print which methods compose with which parts: a line each, or as docs/crossings.md has it.

    Raises:
        ConfigError: a file for anything but Markdown.
    """
    from harness.cli.combination_table import (  # composes a few hundred configurations
        crossings,
        page,
    )

    if style == "markdown":
        text = page(list(crossings()))
        if output is None:
            print(text, end="")
        else:
            write_text(Path(output), text)
        return
    if output is not None:
        raise ConfigError("--output needs --format markdown.")
    for crossing in crossings():
        name = f"{crossing.method} {crossing.group}={crossing.option}"
        print(f"{name:<48} {crossing.verdict or f'refused: {crossing.reason}'}")


def _runs(store: str) -> list[tuple[str, str]]:
    return [(run.name, str(state(run))) for run in Store(Path(store)).runs()]


def _problems(store: str) -> list[tuple[str, str]]:
    return [(p.run, p.text) for p in file_problems(list(Store(Path(store)).runs()))]


def _comment(path: Path) -> str:
    """The first sentence of a config's comment, or the option that it changes."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comments = [x[1:].strip() for x in lines if x.startswith("#") and not x.startswith("# @")]
    if comments:
        return re.split(r"(?<=[a-z])\.(?:\s|$)", " ".join(comments))[0]
    settings = [x.split("#")[0].strip() for x in lines if x and not x.startswith(("_", "defaults"))]
    return ", ".join(settings)
