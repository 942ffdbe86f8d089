"""Tables in Markdown, as GitHub renders it."""

from __future__ import annotations

from collections.abc import Sequence

from harness.results.table_model import Cell, Table


def markdown(tables: Sequence[Table]) -> str:
    """Tables under their headings, notes below."""
    return "\n".join(_one(table) for table in tables)


def _one(table: Table) -> str:
    rules = ["---:" if column.numeric else "---" for column in table.columns]
    rows = [[c.heading for c in table.columns], rules, *(map(_cell, row) for row in table.rows)]
    lines = [f"### {table.title}", "", *("| " + " | ".join(row) + " |" for row in rows)]
    for note in table.notes:
        lines += ["", note]
    return "\n".join([*lines, ""])


def _cell(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|")
    return {"best": f"**{text}**", "second": f"<ins>{text}</ins>"}.get(cell.mark, text)
