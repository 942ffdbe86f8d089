"""Shared code of loaders for official releases: find, list, parse and count images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.core.errors import DataError
from harness.core.files import expanded
from harness.data.image_files import ImageFiles
from harness.data.layouts import Layout, market_layouts
from harness.data.subsets import SubsetRule
from harness.data.types import DISTRACTOR, JUNK, Dataset, DatasetFacts, ReIDData, Split

SUFFIXES = (".jpg",)
#: train, query and gallery
Splits = tuple[Split, Split, Split]


@dataclass(frozen=True)
class Release:
    """A data set as distributed by its authors, `title` in messages.

    page: the folder under `datasets/` whose README says where to get it.
    folders: possible locations under the data root, the usual one first; "." is the root.
    example: one of its file names.
    how_to_get: the hint if it is missing; by default how to prepare it.
    """

    title: str
    page: str
    folders: tuple[str, ...]
    example: str
    how_to_get: str = ""

    @property
    def hint(self) -> str:
        """What to do if the release is missing."""
        return self.how_to_get or (
            f"Set HARNESS_DATA or data.root= to the folder that contains {self.folders[0]}, or "
            f"unpack it there: harness prepare dataset={self.page} source=ARCHIVE. "
            f"datasets/{self.page}/README.md says where to get it."
        )

    def find(self, root: Path, parts: Iterable[str]) -> Path:
        """The first location under `root` that has at least one of `parts`, folders or files.

        Raises DataError if there is none; it lists the folders tried.
        """
        parts = tuple(parts)
        for name in self.folders:
            if any((root / name / part).exists() for part in parts):
                return root / name
        tried = ", ".join(name for name in self.folders if name != ".") + " and the folder itself"
        raise DataError(f"{self.title} is not under {root} (tried {tried})", self.hint)

    def list_images(
        self, folder: Path, part: str, expected: int, suffixes: Sequence[str] = SUFFIXES
    ) -> list[str]:
        """Sorted names of the images in a sub-folder; raises DataError if that is missing."""
        if not (folder / part).is_dir():
            problem = f"{self.title} in {folder} is incomplete: {part} is missing"
            hint = f"Unpack the archive again; {part} has {expected:,} images."
            raise DataError(problem, hint)
        return list_images(folder / part, suffixes)

    def parse(
        self, folder: Path, names: Sequence[str], pattern: re.Pattern[str]
    ) -> list[re.Match[str]]:
        """Match every name; raises DataError with the first names that do not match."""
        matches = [pattern.fullmatch(name) for name in names]
        wrong = [name for name, match in zip(names, matches, strict=True) if match is None]
        if wrong:
            raise DataError(
                f"{len(wrong)} of {len(names)} file names in {folder} are not {self.title}'s "
                f"(like {self.example}): {shown(wrong)}",
                "Remove these files, or use dataset=folder for your own images.",
            )
        return [match for match in matches if match is not None]

    def check_count(self, folder: Path, count: int, expected: int, check: bool) -> None:
        """Check the number of images; if `check` is false, only that there are any."""
        if count == 0 or (check and count < expected):
            raise DataError(
                f"{folder} is incomplete: {count:,} of {expected:,} images",
                "Unpack the archive again, or accept a part of it: dataset.check_counts=false.",
            )
        if check and count > expected:
            more = f"{count - expected:,} more than the official {expected:,}"
            raise DataError(
                f"{folder} has {count:,} images, {more}",
                "Unpack the archive into an empty folder: results on other images are not "
                "comparable. dataset.check_counts=false accepts them anyway.",
            )


class ReleasedDataset(Dataset):
    """An official release, or a subset of it.

    Args:
        root: the folder that contains the release under one of its usual names, or the release.
        check_counts: refuse any number of images but the official one.
        subset: options of `SubsetRule`; None for the whole release.
    """

    def __init__(
        self,
        release: Release,
        root: str | Path,
        check_counts: bool = True,
        subset: Mapping[str, int | bool] | None = None,
    ) -> None:
        self.release = release
        self.root = expanded(root)
        self.check_counts = check_counts
        self.subset = None if subset is None else SubsetRule.parse(subset)

    def market_split(
        self, folder: Path, part: str, expected: int, pattern: re.Pattern[str],
        suffixes: Sequence[str] = SUFFIXES,
    ) -> Split:  # fmt: skip
        """A sub-folder with names like Market-1501's: `pattern` has identity and camera, from 1.

        Raises DataError if it is missing or incomplete, or has other names.
        """
        names = self.release.list_images(folder, part, expected, suffixes)
        matches = self.release.parse(folder / part, names, pattern)
        self.release.check_count(folder / part, len(names), expected, self.check_counts)
        numbers = [(int(match[1]), int(match[2]) - 1) for match in matches]
        return make_split(folder, [f"{part}/{name}" for name in names], numbers)

    def release_facts(self) -> DatasetFacts | None:
        """What is publicly known of the whole release."""
        return None

    def facts(self) -> DatasetFacts | None:
        return None if self.subset is not None else self.release_facts()

    def make_data(
        self, name: str, splits: Splits, notes: Mapping[str, int | float | str] | None = None
    ) -> ReIDData:
        """The whole release; or its subset, which has a name of its own and no published facts."""
        if self.subset is not None:
            name, splits = f"{name}_subset", self.subset.apply(*splits)
        return ReIDData(name, *splits, notes=notes or {}, facts=self.facts())


class MarketDataset(ReleasedDataset):
    """A release with folders and file names like Market-1501's.

    `parts` maps train, query and gallery to (sub-folder, images in the official release); for
    `pattern` see `market_split`.
    """

    def __init__(
        self, release: Release, parts: Mapping[str, tuple[str, int]], pattern: re.Pattern[str],
        root: str | Path, check_counts: bool = True,
        subset: Mapping[str, int | bool] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(release, root, check_counts, subset)
        self.parts, self.pattern = parts, pattern

    def layouts(self) -> Sequence[Layout]:
        """The original layout, and one folder per identity."""
        return market_layouts(self.release.title, self.release.folders[0], self.parts)

    def find_splits(self) -> tuple[Path, Splits]:
        """The folder of the release, and its splits.

        Raises DataError if it is missing or incomplete, or has other file names.
        """
        folder = self.release.find(self.root, (part for part, _ in self.parts.values()))
        train, query, gallery = (
            self.market_split(folder, *self.parts[name], self.pattern)
            for name in ("train", "query", "gallery")
        )
        return folder, (train, query, gallery)


def make_split(folder: Path, names: Sequence[str], numbers: Sequence[tuple[int, int]]) -> Split:
    """A split of image files; `numbers` are (identity, camera) of each."""
    identities, cameras = np.array(numbers, dtype=np.int64).reshape(-1, 2).T.copy()
    return Split(ImageFiles(folder, names), identities, cameras)


def list_images(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[str]:
    """Sorted names of a folder's image files, without hidden ones (macOS adds one per image)."""
    with os.scandir(folder) as entries:
        found = (e.name for e in entries if e.name.endswith(tuple(suffixes)))
        return sorted(name for name in found if name[0] != ".")


def shown(names: Sequence[str], most: int = 3) -> str:
    """'a, b, c, …'."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def gallery_notes(gallery: Split) -> dict[str, int | float | str]:
    """The numbers of junk boxes and distractors in a gallery."""
    return {
        "junk": int((gallery.identities == JUNK).sum()),
        "distractors": int((gallery.identities == DISTRACTOR).sum()),
    }
