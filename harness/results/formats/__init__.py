"""The formats that tables are written in: each a function from sheets to text."""

from harness.results.formats.html import html
from harness.results.formats.latex import latex
from harness.results.formats.markdown import markdown

__all__ = ["html", "latex", "markdown"]
