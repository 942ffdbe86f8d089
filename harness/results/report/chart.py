"""What all charts share: a figure's parts, and how a row looks and is called in each.

A chart is an inline SVG whose colours come from the page's style sheet, so that they follow light
and dark, and the numbers behind it, for those who do not see it.
"""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from harness.results.report.svg import COLOURS, HEIGHT, clipped, element, mark

#: rows in colour; those below are grey. A chart has no room for more labels.
COLOURED = 16
LABEL = 19  # letters of a label
LEFT, TOP, BOTTOM = 44, 8, HEIGHT - 38


@dataclass(frozen=True)
class Chart:
    """A figure: its caption, its picture, a note, and its numbers as a table."""

    title: str
    picture: Markup
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def row_class(place: int) -> str:
    """Classes of what belongs to a row: its colour, and its dashes where colours repeat."""
    if place >= COLOURED:
        return "s rest"
    return f"s c{place % COLOURS}" + (" d1" if place >= COLOURS else "")


def legend(place: int) -> Markup:
    """The mark of a row, for its line in the table."""
    shown = mark(place, 6.0, 6.0, 4.2)
    look = f"key {row_class(place)}"
    return element("svg", shown, viewBox="0 0 12 12", klass=look, aria_hidden="true")


def group(board: str, place: int, *parts: str) -> Markup:
    """What belongs to a row, so that it can be found with its line in the table."""
    return element("g", *parts, klass=row_class(place), data_row=f"{board}r{place}")


def label(text: str, x: float, y: float, anchor: str | None = None) -> Markup:
    """A row's name; cut off where it is long, then with the whole of it on hover."""
    short = clipped(text, LABEL)
    inner = [short] if short == text else [short, element("title", text)]
    return element("text", *inner, x=x, y=y + 3.8, text_anchor=anchor, klass="label")


def value(number: float) -> str:
    """In three digits or so."""
    size = abs(number)
    return f"{number:.0f}" if size >= 1000 else f"{number:.1f}" if size >= 10 else f"{number:.2f}"


def left_out(count: int) -> str:
    """A note on rows that a chart has no room for."""
    return f" The {count} rows below are in the table alone." if count > 0 else ""
