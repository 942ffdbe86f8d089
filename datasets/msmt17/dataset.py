"""MSMT17 (Wei et al., CVPR 2018): V1, and V2 with blurred faces. They are two data sets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from harness.core.errors import DataError
from harness.data.layouts import Layout
from harness.data.layouts import part as folder_of
from harness.data.releases import Release, ReleasedDataset, make_split, shown
from harness.data.types import DatasetFacts, ReIDData, Split

#: version → (folders of training and test images); faces are blurred in V2's
IMAGES = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}
OTHER = {"v1": "v2", "v2": "v1"}
#: list file → number of lines, in both versions
LISTS = {
    "list_train.txt": 30_248, "list_val.txt": 2_373, "list_query.txt": 11_659,
    "list_gallery.txt": 82_161,
}  # fmt: skip
TRAIN_IDENTITIES, TEST_IDENTITIES = 1_041, 3_060
#: identity, number, camera, date and time of day, frame, box; `_ex` boxes are additional ones
NAME = re.compile(
    r"(\d{4})/\d{4}_\d{3}_(\d{2})_\d{4}(?:morning|noon|afternoon)_\d{4}_\d+(?:_ex)?\.jpg"
)
LINE = re.compile(r"(\S+) (\d+)")
#: of the paper; identities and valid matches of the official lists
FACTS = DatasetFacts(
    train=32_621, train_identities=TRAIN_IDENTITIES, query=11_659,
    query_identities=TEST_IDENTITIES, gallery=82_161, junk=0, distractors=0, cameras=15,
    matches=339_216,
)  # fmt: skip
GET = "datasets/msmt17/README.md says where to request it."


def release(version: str) -> Release:
    """The release of a version."""
    name = f"MSMT17_{version.upper()}"
    folders = (name, f"{name}/{name}", f"MSMT17/{name}", f"msmt17/{name}", "MSMT17", "msmt17", ".")
    example = "0000/0000_000_01_0303morning_0015_0.jpg"
    return Release(f"MSMT17 {version.upper()}", "msmt17", folders, example)


class MSMT17(ReleasedDataset):
    """MSMT17: 15 cameras, 1,041 training identities, 3,060 test identities.

    Images are in the order of the official lists, those of `list_val.txt` after those of
    `list_train.txt`. Cameras 01 … 15 are 0 … 14. Identities are numbered from 1: the lists' 0 …
    1040 for training become 1 … 1041, and 0 … 3059 for testing (other persons) 1042 … 4101.

    Args:
        version: v1, or v2 with blurred faces; they have different names in records and tables.
        trainval: train on `list_train.txt` and `list_val.txt`, as papers on unsupervised methods
            do; false omits the 2,373 images of the latter. Others: see `ReleasedDataset`.
    """

    def __init__(
        self,
        root: str | Path,
        version: Annotated[
            Literal["v1", "v2"], Field(description="v1, or v2 with blurred faces")
        ] = "v1",
        trainval: Annotated[
            bool, Field(description="train on list_val.txt as well as on list_train.txt")
        ] = True,
        check_counts: bool = True,
        subset: Mapping[str, int | bool] | None = None,
    ) -> None:
        self.version = version
        super().__init__(release(version), root, check_counts, subset)
        self.trainval = trainval

    def layouts(self) -> Sequence[Layout]:
        """The layout of this version; the other version's is refused."""
        other = OTHER[self.version]
        hint = (
            "They are different data sets (faces are blurred in V2): use "
            f"dataset.version={other}, or get {self.release.title}. {GET}"
        )
        return [_layout(self.version), replace(_layout(other), instead=hint)]

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete or not as expected."""
        folder = self._find()
        train_folder, test_folder = IMAGES[self.version]
        lists = ["list_train.txt", *(["list_val.txt"] if self.trainval else [])]
        train = self._split(folder, train_folder, lists, 1, TRAIN_IDENTITIES)
        query, gallery = (
            self._split(folder, test_folder, [name], 1 + TRAIN_IDENTITIES, TEST_IDENTITIES)
            for name in ("list_query.txt", "list_gallery.txt")
        )
        name = "msmt17" if self.version == "v1" else f"msmt17_{self.version}"
        return self.make_data(name if self.trainval else f"{name}_train", (train, query, gallery))

    def release_facts(self) -> DatasetFacts | None:
        return FACTS if self.trainval else None

    def _find(self) -> Path:
        folders, others = IMAGES[self.version], IMAGES[OTHER[self.version]]
        other_release = release(OTHER[self.version])
        title, other_title = self.release.title, other_release.title
        folder = _locate(self.root, self.release.folders, folders)
        if folder is None:
            anywhere = (*self.release.folders, *other_release.folders)
            wrong = _locate(self.root, anywhere, others)
            if wrong is not None:
                raise DataError(
                    f"{wrong} has the image folders of {other_title} ({', '.join(others)}), not "
                    f"those of {title} ({', '.join(folders)})",
                    "They are different data sets (faces are blurred in V2) and never mixed: use "
                    f"dataset.version={OTHER[self.version]}, or get {title}. {GET}",
                )
            folder = self.release.find(self.root, LISTS)
        missing = [name for name in (*folders, *LISTS) if not (folder / name).exists()]
        if missing:
            raise DataError(
                f"{title} in {folder} is incomplete: {', '.join(missing)} missing",
                "The official archive of this version has these list files and folders; lists of "
                f"the other version do not fit. {GET}",
            )
        for other in others:  # it is unknown which version the lists belong to
            if (folder / other).is_dir():
                raise DataError(
                    f"{folder} has images of both versions ({folders[0]} and {other}), but one set "
                    "of list files.",
                    "Put each version, with its own lists, into a separate folder: MSMT17_V1 and "
                    "MSMT17_V2.",
                )
        return folder

    def _split(
        self, folder: Path, images: str, lists: list[str], first: int, identities: int
    ) -> Split:
        """The images of some list files, in order; identities are offset by `first`."""
        names: list[str] = []
        numbers: list[tuple[int, int]] = []
        for name in lists:
            entries = self._read(folder / name, identities)
            self.release.check_count(folder / name, len(entries), LISTS[name], self.check_counts)
            names += [f"{images}/{path}" for path, _, _ in entries]
            numbers += [(first + identity, camera) for _, identity, camera in entries]
        self._check_present(folder, images, names, lists)
        return make_split(folder, names, numbers)

    def _read(self, path: Path, identities: int) -> list[tuple[str, int, int]]:
        """(path, identity from 0, camera from 0) of each line."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}", GET) from error
        entries: dict[str, tuple[str, int, int]] = {}
        for number, line in enumerate(map(str.strip, lines), start=1):
            if not line:
                continue
            match, problem = LINE.fullmatch(line), ""
            name = NAME.fullmatch(match[1]) if match is not None else None
            if match is None or name is None:
                example = f"{self.release.example} 0"
                problem = (
                    f"'{line[:60]}' is not an image of MSMT17 and its identity (like {example})"
                )
            else:
                identity, camera = int(match[2]), int(name[2])
                if identity != int(name[1]) or identity >= identities or not 1 <= camera <= 15:
                    problem = f"identity {identity} of {match[1]} is not valid"
                elif match[1] in entries:
                    problem = f"{match[1]} is listed already"
                else:
                    entries[match[1]] = (match[1], identity, camera - 1)
            if problem:
                where = f"{path}, line {number}"
                raise DataError(f"{where}: {problem}", f"Use the official lists. {GET}")
        return list(entries.values())

    def _check_present(self, folder: Path, images: str, names: list[str], lists: list[str]) -> None:
        """Check that the listed images exist.

        Lists each identity's folder once: a stat per file would take seconds on network disks.
        """
        present: set[str] = set()
        for identity in {name.rsplit("/", 1)[0] for name in names}:
            if (folder / identity).is_dir():
                with os.scandir(folder / identity) as files:
                    present.update(f"{identity}/{file.name}" for file in files)
        missing = [name for name in names if name not in present]
        if missing:
            raise DataError(
                f"{len(missing):,} of {len(names):,} images of {', '.join(lists)} are not in "
                f"{folder}: {shown(missing)}",
                f"Either {images} is incomplete, or the lists are of another version than the "
                f"images: unpack {self.release.title} with its own lists into an empty folder.",
            )


def _layout(version: str) -> Layout:
    train, test = IMAGES[version]
    parts = (folder_of(f"{train}/*", 32_621), folder_of(f"{test}/*", 93_820))
    found = release(version)
    return Layout(found.title, found.folders[0], parts, tuple(LISTS))


def _locate(root: Path, names: Sequence[str], parts: Sequence[str]) -> Path | None:
    """The first folder that has one of `parts`.

    Any folder may contain a `test`, so the root itself counts only if it has a list file.
    """
    for name in names:
        folder = root / name
        if any((folder / part).is_dir() for part in parts) and (
            name != "." or any((folder / file).is_file() for file in LISTS)
        ):
            return folder
    return None
