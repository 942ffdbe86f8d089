"""Formats of tables: each a function from tables to text."""

from collections.abc import Callable, Sequence

from harness.results.formats.html import html
from harness.results.formats.latex import latex
from harness.results.formats.markdown import markdown
from harness.results.table_model import Table

FORMATS: dict[str, Callable[[Sequence[Table]], str]] = {
    "markdown": markdown, "latex": latex, "html": html,
}  # fmt: skip

__all__ = ["FORMATS", "html", "latex", "markdown"]
