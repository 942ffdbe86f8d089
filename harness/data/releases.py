"""Official releases as they lie on disk: found under the data root, listed, counted, parsed.

What the loaders under `datasets/` share. Each says what its release is called and how its names
read; what is wrong is told in the same words by all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.core.errors import DataError
from harness.data.image_files import Files
from harness.data.types import Split

JUNK, DISTRACTOR = -1, 0
SUFFIXES = (".jpg",)


@dataclass(frozen=True)
class Release:
    """A data set as its authors hand it out.

    Attributes:
        title: its name in messages.
        page: the folder under `datasets/` whose README says where to get it.
        folders: where it may lie under the data root, the usual place first; "." is the root.
        example: one of its file names.
    """

    title: str
    page: str
    folders: tuple[str, ...]
    example: str

    @property
    def where(self) -> str:
        """What to do when it is not there."""
        return (
            f"Set HARNESS_DATA or data.root= to the folder that holds {self.folders[0]}, or unpack "
            f"it there: harness prepare dataset={self.page} source=ARCHIVE. "
            f"datasets/{self.page}/README.md says where to get it."
        )

    def find(self, root: Path, parts: Iterable[str]) -> Path:
        """The first folder that has at least one of `parts`, which are sub-folders or files.

        Raises:
            DataError: there is none; names the folders that were tried.
        """
        parts = tuple(parts)
        for name in self.folders:
            if any((root / name / part).exists() for part in parts):
                return root / name
        tried = ", ".join(name for name in self.folders if name != ".")
        raise DataError(
            f"{self.title} is not under {root} (tried {tried} and the folder itself)", self.where
        )

    def list_images(
        self, folder: Path, part: str, expected: int, suffixes: Sequence[str] = SUFFIXES
    ) -> list[str]:
        """Sorted names of the images of one sub-folder.

        Raises:
            DataError: the sub-folder is missing.
        """
        if not (folder / part).is_dir():
            raise DataError(
                f"{self.title} in {folder} is incomplete: {part} is missing",
                f"Unpack the archive again; {part} has {expected:,} images.",
            )
        return list_images(folder / part, suffixes)

    def parse(
        self, folder: Path, names: Sequence[str], pattern: re.Pattern[str]
    ) -> list[re.Match[str]]:
        """The match of each name.

        Raises:
            DataError: some have none; names the first of them.
        """
        matches = [pattern.fullmatch(name) for name in names]
        wrong = [name for name, match in zip(names, matches, strict=True) if match is None]
        if wrong:
            raise DataError(
                f"{len(wrong)} of {len(names)} file names in {folder} are not {self.title}'s "
                f"(like {self.example}): {shown(wrong)}",
                "Remove these files, or use dataset=folder for images of your own.",
            )
        return [match for match in matches if match is not None]

    def check_count(self, folder: Path, count: int, expected: int, check: bool) -> None:
        """Refuse another number of images than the official one; with `check` false only none.

        Raises:
            DataError: too few or too many.
        """
        if count == 0 or (check and count < expected):
            raise DataError(
                f"{folder} is incomplete: {count:,} of {expected:,} images",
                "Unpack the archive again, or use dataset.check_counts=false for a part of it.",
            )
        if check and count > expected:
            raise DataError(
                f"{folder} has {count:,} images, {count - expected:,} more than the official "
                f"{expected:,}",
                "Unpack the archive into an empty folder; numbers on other images cannot be "
                "compared. dataset.check_counts=false takes them all the same.",
            )

    def market_part(
        self,
        folder: Path,
        part: str,
        expected: int,
        pattern: re.Pattern[str],
        check: bool,
        suffixes: Sequence[str] = SUFFIXES,
    ) -> Split:
        """One sub-folder whose names are as Market-1501's: group 1 of `pattern` is the identity,
        group 2 the camera from 1.

        Raises:
            DataError: it is missing or incomplete, or holds names that do not parse.
        """
        names = self.list_images(folder, part, expected, suffixes)
        matches = self.parse(folder / part, names, pattern)
        self.check_count(folder / part, len(names), expected, check)
        numbers = np.array([(int(match[1]), int(match[2]) - 1) for match in matches], np.int64)
        identities, cameras = numbers.T.copy()
        return Split(Files(folder, [f"{part}/{name}" for name in names]), identities, cameras)


def list_images(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[str]:
    """Sorted names of the files in a folder that end so. macOS archives add a hidden `._` file for
    each image; hidden files are left out.
    """
    endings = tuple(suffixes)
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.name.endswith(endings) and e.name[0] != ".")


def shown(names: Sequence[str], most: int = 3) -> str:
    """'a, b, c, …'."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def gallery_notes(gallery: Split) -> dict[str, int | float | str]:
    """How much of a gallery is junk, and how much nobody's."""
    return {
        "junk": int((gallery.identities == JUNK).sum()),
        "distractors": int((gallery.identities == DISTRACTOR).sum()),
    }
