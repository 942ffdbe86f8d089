"""The page's section on each method: the idea from its README, its runs and its settings."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

from harness.core import plugins
from harness.core.errors import HarnessError
from harness.results.row_labels import flat
from harness.results.store import Run

#: top-level settings that the table of runs shows already
SHOWN_WITH_RUN = ("seed", "dataset", "name")


@dataclass(frozen=True)
class Setting:
    """One configuration of a method.

    name: its hash. values: by dotted key; only those that differ if `compared_with` is the hash
    of another one.
    """

    name: str
    values: dict[str, Any]
    compared_with: str = ""


@dataclass(frozen=True)
class Method:
    """A method's part of the page.

    key: its id in the page. about: the introduction and idea from its README, as safe HTML.
    runs: its finished runs, evaluated or not.
    """

    key: str
    name: str
    summary: str
    about: Markup
    runs: tuple[Run, ...]
    settings: tuple[Setting, ...]


def methods(runs: Iterable[Run]) -> list[Method]:
    """The methods of finished runs, in alphabetical order."""
    by_name = defaultdict(list)
    for run in runs:
        by_name[str(run.record["experiment"]["method"])].append(run)
    known = _known()
    found = []
    for place, (name, own) in enumerate(sorted(by_name.items())):
        text = ""
        if name in known:
            with suppress(OSError, ValueError):
                text = idea((known[name].folder / "README.md").read_text(encoding="utf-8"))
        summary = plugins.first_sentence(text.split("\n\n")[0])
        settings = tuple(_settings(own))
        found.append(Method(f"m{place}", name, summary, rendered(text), tuple(own), settings))
    return found


def _known() -> dict[str, plugins.Plugin]:
    """Name of a method or variant, as in records → its plug-in."""
    found: dict[str, plugins.Plugin] = {}
    for plugin in plugins.find()["methods"].values():
        found |= {f"{plugin.name}_{variant}": plugin for variant in plugin.variants}
        found[plugin.name] = plugin
    return found


def idea(readme: str) -> str:
    """A README's introduction without the title, and its section on the idea."""
    lead, *sections = re.split(r"^## ", readme, flags=re.MULTILINE)
    kept = [re.sub(r"\A\s*# .*\n", "", lead).strip()]
    for section in sections:
        title, _, body = section.partition("\n")
        if "idea" in title.lower():
            kept.append(body.strip())
    return "\n\n".join(kept)


def rendered(markdown: str) -> Markup:
    """Markdown as HTML without raw HTML, images, and links to anything but the web."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = parser.parse(markdown)
    for token in tokens:
        kept, dropped = [], 0
        for child in token.children or []:
            if child.type == "link_open" and not re.match(r"https?://", str(child.attrs["href"])):
                dropped += 1  # a file beside the README: the page is sent alone
            elif child.type == "link_close" and dropped:
                dropped -= 1
            else:
                kept.append(child)
        if token.children is not None:
            token.children = kept
    text = parser.renderer.render(tokens, parser.options, {})
    return Markup(text.replace("<pre>", '<pre tabindex="0">'))  # so that keys can scroll it


def _settings(runs: Sequence[Run]) -> Iterable[Setting]:
    """The first configuration in full, and the differences of the others from it."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        with suppress(HarnessError):
            values = {k: v for k, v in flat(run.config()).items() if k not in SHOWN_WITH_RUN}
            found.setdefault(str(run.record["settings"]), values)
    for name, values in found.items():
        first, whole = next(iter(found.items()))
        if name == first:
            yield Setting(name, values)
            continue
        changed = {k: v for k, v in values.items() if whole.get(k) != v}
        gone = {k: "(not set)" for k in whole if k not in values}
        yield Setting(name, changed | gone, first)
