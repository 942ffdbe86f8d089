"""CSV files that list images: path, id, camera, split."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import DataError
from harness.data.releases import shown

COLUMNS = ("path", "id", "camera", "split")


@dataclass(frozen=True)
class Row:
    """One line of the CSV, without surrounding blanks."""

    line: int
    path: str
    id: str
    camera: str
    split: str


def read_rows(path: Path, required: Sequence[str] = COLUMNS[:1]) -> list[Row]:
    """The rows of a CSV with a header; optional columns that it lacks are empty.

    Columns may be in any order, and others are ignored, unless one looks like a misspelt name of a
    column that is missing.

    Raises:
        DataError: it is no CSV in UTF-8, or a `required` column is missing.
    """
    try:
        # -sig: spreadsheet programs write a byte order mark
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip().lower() for name in next(reader, [])]
            _check_header(path, header, required)
            rows = []
            for values in reader:
                if any(value.strip() for value in values):
                    cells = dict(zip(header, (value.strip() for value in values), strict=False))
                    row = {column: cells.get(column, "") for column in COLUMNS}
                    rows.append(Row(reader.line_num, **row))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a CSV file in UTF-8: {error}") from error
    return rows


def _check_header(path: Path, header: list[str], required: Sequence[str]) -> None:
    twice = sorted({name for name in header if name in COLUMNS and header.count(name) > 1})
    if twice:
        raise DataError(f"{path}, line 1: column '{twice[0]}' occurs twice")
    missing = [name for name in COLUMNS if name not in header]
    for name in missing:
        near = difflib.get_close_matches(name, set(header) - set(COLUMNS), n=1, cutoff=0.75)
        if near:
            problem = f"{path}, line 1: unknown column '{near[0]}'"
            raise DataError(problem, f"Did you mean '{name}'?")
    needed = [name for name in missing if name in required]
    if needed:
        raise DataError(
            f"{path}, line 1: column '{needed[0]}' is missing among {', '.join(header)}",
            "The first line must name the columns, separated by commas: path,id,camera,split",
        )


def lines(rows: Sequence[Row]) -> str:
    """'line 3' or 'lines 3, 4, 9, …'."""
    numbers = [str(row.line) for row in rows]
    return f"line{'s' if len(numbers) > 1 else ''} {shown(numbers)}"
