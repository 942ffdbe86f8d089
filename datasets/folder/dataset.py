"""Your own images, listed in a CSV file: path, id, camera, split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from harness.core.errors import DataError
from harness.core.files import expanded
from harness.data.csv_lists import Row, lines, read_rows
from harness.data.identifiers import is_missing, number_cameras, number_identities
from harness.data.image_files import ImageFiles
from harness.data.releases import gallery_notes, shown
from harness.data.types import DISTRACTOR, JUNK, Dataset, ReIDData, Split

REQUIRED = ("path", "split")
SPLITS = ("train", "query", "gallery")


class Folder(Dataset):
    """A data set described by one CSV file with a header.

    Args:
        root: the folder that `csv` and `images` are relative to.
        csv: the file. Columns `path` and `split`; optional `id` (required for query and gallery)
            and `camera` (in all rows or in none).
        images: the folder that paths are relative to; by default the CSV's folder.
    """

    def __init__(self, root: str | Path, csv: str | Path, images: str | Path | None = None) -> None:
        root = expanded(root)
        self.csv = root / expanded(csv)
        self.images = self.csv.parent if images is None else root / expanded(images)

    def load(self) -> ReIDData:
        """Raises DataError, with line numbers, if anything is wrong with the file."""
        rows = self._rows()
        self._check_rows(rows)
        identities = self._identities(rows)
        cameras = self._cameras(rows)

        def part(split: str) -> Split:
            chosen = np.array([i for i, row in enumerate(rows) if row.split == split], dtype=int)
            return Split(
                ImageFiles(self.images, [rows[i].path for i in chosen]),
                identities[chosen],
                None if cameras is None else cameras[chosen],
            )

        train, query, gallery = part("train"), part("query"), part("gallery")
        counts = gallery_notes(gallery) | {
            "training_images_without_id": sum(
                row.split == "train" and is_missing(row.id) for row in rows
            )
        }
        notes = {name: count for name, count in counts.items() if count}
        return ReIDData("folder", train, query, gallery, notes)

    def _rows(self) -> list[Row]:
        """Read the file and check its header."""
        if not self.csv.is_file():
            hint = "dataset.csv= is an absolute path, or relative to data.root= (or HARNESS_DATA)."
            raise DataError(f"There is no file {self.csv}", hint)
        return read_rows(self.csv, REQUIRED)

    def _check_rows(self, rows: list[Row]) -> None:
        unknown = [row for row in rows if row.split not in SPLITS]
        if unknown:
            problem = f"split '{unknown[0].split}' is none of {', '.join(SPLITS)}"
            self._refuse(problem, unknown, rows)
        self._refuse("no path", [row for row in rows if not row.path], rows)
        absolute = [row for row in rows if Path(row.path).is_absolute()]
        if absolute:
            raise DataError(
                f"{absolute[0].path} is an absolute path ({lines(absolute)} of {self.csv})",
                "Paths must be relative to the CSV's folder, or to dataset.images=.",
            )
        first: dict[str, Row] = {}
        repeated = [row for row in rows if first.setdefault(row.path, row) is not row]
        if repeated:
            original = first[repeated[0].path].line
            self._refuse(f"{repeated[0].path} is listed already (line {original})", repeated, rows)
        self._check_splits({row.split for row in rows})
        folded: dict[str, Row] = {}  # paths that are one file on case-insensitive disks
        same = [row for row in rows if folded.setdefault(row.path.casefold(), row) is not row]
        if same:
            other = folded[same[0].path.casefold()]
            problem = f"{same[0].path} differs from {other.path} (line {other.line}) by case only"
            self._refuse(f"{problem}; many disks cannot store both", same, rows)
        missing = [row for row in rows if not (self.images / row.path).is_file()]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(rows)} images are not in {self.images}: "
                f"{shown([row.path for row in missing])} ({lines(missing)} of {self.csv})",
                "Paths are relative to the CSV's folder; set dataset.images= to use another.",
            )

    def _check_splits(self, present: set[str]) -> None:
        """Training images alone are fine, and so are test images, but queries need a gallery."""
        missing = [split for split in SPLITS if split not in present]
        if missing == ["query", "gallery"] or missing in ([], ["train"]):
            return
        task = "training" if missing[0] == "train" else "evaluation, which needs query and gallery"
        raise DataError(
            f"{self.csv} lists no {missing[0]} images",
            f"Add rows with split={missing[0]} for {task}.",
        )

    def _identities(self, rows: list[Row]) -> np.ndarray:
        """(N,) int64: numbers are kept; names are numbered from 1 in sorted order."""
        problem = "no id; query and gallery images need one (-1 for junk, 0 for a distractor)"
        missing = [row for row in rows if row.split != "train" and is_missing(row.id)]
        self._refuse(problem, missing, rows)
        numbers = number_identities([row.id for row in rows])
        start = "; if people are numbered from 0, number them from 1"
        for number, name, more in ((JUNK, "junk", ""), (DISTRACTOR, "a distractor", start)):
            wrong = [
                row
                for row, identity in zip(rows, numbers, strict=True)
                if row.split == "query" and identity == number
            ]
            self._refuse(f"a query cannot be {name} (id {number}){more}", wrong, rows)
        negative = [row for row, number in zip(rows, numbers, strict=True) if number < JUNK]
        self._refuse("ids are negative; only -1 is allowed, for junk", negative, rows)
        return numbers

    def _cameras(self, rows: list[Row]) -> np.ndarray | None:
        """(N,) int64, numbered from 0 in sorted order; None if no row has a camera."""
        without = [row for row in rows if is_missing(row.camera)]
        if len(without) == len(rows):
            return None
        self._refuse("no camera, though other rows have one", without, rows)
        return number_cameras([row.camera for row in rows])

    def _refuse(self, problem: str, wrong: list[Row], rows: list[Row]) -> None:
        """Raise DataError if any rows are wrong."""
        if wrong:
            hint = f"Correct {len(wrong)} of {len(rows)} rows."
            raise DataError(f"{self.csv}, {lines(wrong)}: {problem}", hint)
