"""Where a searched key was written: the line of a method's file, or the override."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from harness.core import plugins
from harness.experiment.search.space import Locate


def locator(overrides: Sequence[str]) -> Locate:
    """A function from a searched key (and a field of it) to where a person finds it."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    named = [(item.key_or_group, str(item.input_line)) for item in parsed]
    method = next((str(item.value()) for item in parsed if item.key_or_group == "method"), "")
    files = _files(method)

    def locate(key: str, field: str) -> str:
        full = f"search.space.{key}" + (f".{field}" if field else "")
        for name, line in reversed(named):
            if _within(full, name) or _within(name, full):
                return f"'{line}' on the command line"
        for path in files:
            found = _line(path, full.split("."))
            if found:
                return f"{path}:{found}"
        return "search.space"

    return locate


def _within(key: str, outer: str) -> bool:
    """Whether a dotted key is another one, or stands in it."""
    return outer.startswith("search.space") and (key == outer or key.startswith(f"{outer}."))


def _files(method: str) -> list[Path]:
    """A variant's file and its method's, the one that wins first."""
    name, _, variant = method.partition("/")
    plugin = plugins.find()["methods"].get(name)
    if plugin is None:
        return []
    own = [plugin.variants[variant]] if variant in plugin.variants else []
    return [*own, plugin.folder / "config.yaml"]


def _line(path: Path, keys: Sequence[str]) -> int:
    """The line, from 1, of the deepest of nested keys that a file has; 0 if none of the space."""
    node = yaml.compose(path.read_text(encoding="utf-8"))
    line = depth = 0
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        for name, inner in node.value:
            if name.value == key:
                line, node, depth = name.start_mark.line + 1, inner, depth + 1
                break
        else:
            break
    return line if depth > 2 else 0
