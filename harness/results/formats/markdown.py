"""Tables in Markdown, as GitHub shows it."""

from __future__ import annotations

from collections.abc import Sequence

from harness.results.table_model import Cell, Sheet


def markdown(sheets: Sequence[Sheet]) -> str:
    """Tables under their headings, notes below."""
    return "\n".join(_one(sheet) for sheet in sheets)


def _one(sheet: Sheet) -> str:
    heads = [" ".join(filter(None, (c.group, c.title))) for c in sheet.columns]
    lines = [f"### {sheet.title}", "", "| " + " | ".join(heads) + " |"]
    lines.append("| " + " | ".join("---:" if c.numeric else "---" for c in sheet.columns) + " |")
    lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in sheet.rows]
    for note in sheet.notes:
        lines += ["", note]
    return "\n".join([*lines, ""])


def _cell(cell: Cell) -> str:
    text = cell.text.replace("|", "\\|")
    return {"best": f"**{text}**", "second": f"<ins>{text}</ins>"}.get(cell.mark, text)
