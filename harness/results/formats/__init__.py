"""Formats of tables: each a function from tables to text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path

from harness.core.errors import ConfigError
from harness.results.formats.latex import latex
from harness.results.table_model import Cell, Table


def markdown(tables: Sequence[Table]) -> str:
    """Tables as GitHub renders them: under their headings, notes below."""
    lines = []
    for table in tables:
        heads = [column.heading for column in table.columns]
        rules = ["---:" if column.numeric else "---" for column in table.columns]
        rows = [heads, rules, *([_marked(cell) for cell in row] for row in table.rows)]
        lines += [f"### {table.title}", "", *("| " + " | ".join(row) + " |" for row in rows)]
        for note in table.notes:
            lines += ["", note]
        lines.append("")
    return "\n".join(lines)


def _marked(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|")
    return {"best": f"**{text}**", "second": f"<ins>{text}</ins>"}.get(cell.mark, text)


def html(tables: Sequence[Table]) -> str:
    """One self-contained page."""
    from jinja2 import Environment  # slow to import

    text = files("harness.results.formats").joinpath("tables.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text).render(tables=tables)


FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "markdown": markdown, "latex": latex, "html": html,
}  # fmt: skip
#: ending of a file → the format that it is written in
ENDINGS = {".tex": "latex", ".md": "markdown", ".csv": "csv", ".html": "html"}


def format_of(output: str) -> str:
    """The format that a file's ending stands for.

    Raises:
        ConfigError: it stands for none.
    """
    ending = Path(output).suffix
    if (style := ENDINGS.get(ending.lower())) is None:
        called = f"'{ending}' is the ending of no format" if ending else "it has no ending"
        hint = f"Use {', '.join(ENDINGS)}, or choose one: --format {', '.join(ENDINGS.values())}."
        raise ConfigError(f"--output {output}: {called}.", hint)
    return style


__all__ = ["ENDINGS", "FORMATS", "format_of", "html", "latex", "markdown"]
