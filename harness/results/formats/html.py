"""Tables as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment

from harness.results.table_model import Table


def html(tables: Sequence[Table]) -> str:
    """A page of tables."""
    text = files("harness.results.formats").joinpath("tables.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(text).render(tables=tables)
