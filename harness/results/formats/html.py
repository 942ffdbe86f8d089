"""Tables as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby

from jinja2 import Environment

from harness.results.table_model import Column, Sheet


def html(sheets: Sequence[Sheet]) -> str:
    """A page of tables."""
    folder = files("harness.results.formats")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(folder.joinpath("tables.html").read_text(encoding="utf-8"))
    return template.render(sheets=[(sheet, groups(sheet.columns)) for sheet in sheets])


def groups(columns: Sequence[Column]) -> list[tuple[str, int]]:
    """(heading, width) of the row above the headings; empty if no column has a group."""
    if not any(column.group for column in columns):
        return []
    return [(name, len(list(same))) for name, same in groupby(columns, key=lambda c: c.group)]
