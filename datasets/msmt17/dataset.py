"""MSMT17 (Wei et al., CVPR 2018): V1, and V2 with blurred faces. They are two data sets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.core.errors import ConfigError, DataError, did_you_mean
from harness.data.facts import Facts
from harness.data.image_files import Files
from harness.data.layouts import Layout
from harness.data.layouts import part as folder_of
from harness.data.releases import Release, shown
from harness.data.subsets import SubsetRule
from harness.data.types import Dataset, ReIDData, Split

#: version → (folders of training and test images); faces are blurred in V2's
IMAGES = {"v1": ("train", "test"), "v2": ("mask_train_v2", "mask_test_v2")}
OTHER = {"v1": "v2", "v2": "v1"}
#: list file → its lines in both versions
LISTS = {
    "list_train.txt": 30_248,
    "list_val.txt": 2_373,
    "list_query.txt": 11_659,
    "list_gallery.txt": 82_161,
}
TRAIN_PEOPLE, TEST_PEOPLE = 1_041, 3_060
#: identity, number, camera, date and time of day, frame, box; `_ex` boxes are additional ones
NAME = re.compile(
    r"(\d{4})/\d{4}_\d{3}_(\d{2})_\d{4}(?:morning|noon|afternoon)_\d{4}_\d+(?:_ex)?\.jpg"
)
LINE = re.compile(r"(\S+) (\d+)")
#: of the paper; identities and valid matches of the official lists
FACTS = Facts(
    train=32_621,
    train_identities=TRAIN_PEOPLE,
    query=11_659,
    query_identities=TEST_PEOPLE,
    gallery=82_161,
    junk=0,
    distractors=0,
    cameras=15,
    matches=339_216,
)
GET = "datasets/msmt17/README.md says where to ask for it."


def release(version: str) -> Release:
    """Where a version may lie."""
    upper = f"MSMT17_{version.upper()}"
    names = (
        upper,
        f"{upper}/{upper}",
        f"MSMT17/{upper}",
        f"msmt17/{upper}",
        "MSMT17",
        "msmt17",
        ".",
    )
    return Release(
        f"MSMT17 {version.upper()}", "msmt17", names, "0000/0000_000_01_0303morning_0015_0.jpg"
    )


class MSMT17(Dataset):
    """MSMT17: 15 cameras, 1,041 identities for training, 3,060 for testing.

    Images are in the order of the official lists; training ones are those of `list_train.txt`,
    then of `list_val.txt`. Cameras 01 … 15 are 0 … 14. Identities are numbered from 1: the lists'
    0 … 1040 for training become 1 … 1041, and 0 … 3059 for testing, who are other people,
    1042 … 4101.

    Args:
        root: the folder that holds the release under one of its usual names, or the release itself.
        version: v1, or v2 with blurred faces; in records and tables they have different names.
        trainval: train on `list_train.txt` and `list_val.txt` together, as papers on unsupervised
            methods do; false leaves the 2,373 images of the latter out.
        check_counts: refuse anything but the official numbers of images.
        subset: options of `SubsetRule`, or None for everything.

    Raises:
        ConfigError: there is no such version.
    """

    def __init__(
        self,
        root: str | Path,
        version: str = "v1",
        trainval: bool = True,
        check_counts: bool = True,
        subset: Mapping[str, int | bool] | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.version = str(version).lower()
        if self.version not in IMAGES:
            raise ConfigError(
                f"dataset.version={version} is unknown.", did_you_mean(self.version, IMAGES)
            )
        self.release = release(self.version)
        self.trainval = trainval
        self.check_counts = check_counts
        self.subset = None if subset is None else SubsetRule.parse(subset)

    @property
    def name(self) -> str:
        """What records and tables call it."""
        name = "msmt17" if self.version == "v1" else f"msmt17_{self.version}"
        return name + ("" if self.trainval else "_train") + ("_subset" if self.subset else "")

    def layouts(self) -> Sequence[Layout]:
        """This version's; the other's is refused."""
        other = OTHER[self.version]
        wrong = (
            "They are different data sets (faces are blurred in V2): use "
            f"dataset.version={other}, or get {self.release.title}. {GET}"
        )
        return [_layout(self.version), replace(_layout(other), instead=wrong)]

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete, or not what it should be."""
        folder = self._find()
        train_folder, test_folder = IMAGES[self.version]
        lists = ["list_train.txt", *(["list_val.txt"] if self.trainval else [])]
        train = self._part(folder, train_folder, lists, 1, TRAIN_PEOPLE)
        query, gallery = (
            self._part(folder, test_folder, [name], 1 + TRAIN_PEOPLE, TEST_PEOPLE)
            for name in ("list_query.txt", "list_gallery.txt")
        )
        if self.subset is not None:
            return ReIDData(self.name, *self.subset.apply(train, query, gallery))
        return ReIDData(self.name, train, query, gallery, facts=FACTS if self.trainval else None)

    # ------------------------------------------------------------------------------ the folder

    def _find(self) -> Path:
        mine, others = IMAGES[self.version], IMAGES[OTHER[self.version]]
        title, other = self.release.title, f"MSMT17 {OTHER[self.version].upper()}"
        folder = _place(self.root, self.release.folders, mine)
        if folder is None:
            anywhere = (*self.release.folders, *release(OTHER[self.version]).folders)
            wrong = _place(self.root, anywhere, others)
            if wrong is not None:
                raise DataError(
                    f"{wrong} holds images in folders as {other} has them ({', '.join(others)}), "
                    f"not as {title} has ({', '.join(mine)})",
                    "They are different data sets (faces are blurred in V2), and their numbers are "
                    f"never mixed: use dataset.version={OTHER[self.version]}, or get {title}. "
                    f"{GET}",
                )
            folder = self.release.find(self.root, LISTS)
        missing = [name for name in (*mine, *LISTS) if not (folder / name).exists()]
        if missing:
            raise DataError(
                f"{title} in {folder} is incomplete: {', '.join(missing)} missing",
                "The official archive of this version has these list files and folders; lists of "
                f"the other version do not fit. {GET}",
            )
        for part in others:  # both in one place: whose lists are these?
            if (folder / part).is_dir():
                raise DataError(
                    f"{folder} holds images of both versions ({mine[0]} and {part}), but one set "
                    "of list files.",
                    "Put each version with its own lists into a folder of its own, MSMT17_V1 and "
                    "MSMT17_V2.",
                )
        return folder

    # ------------------------------------------------------------------------------- the lists

    def _part(self, folder: Path, images: str, lists: list[str], first: int, people: int) -> Split:
        """The images of some list files, in their order."""
        names: list[str] = []
        numbers: list[tuple[int, int]] = []
        for name in lists:
            found = self._read(folder / name, people)
            self.release.check_count(folder / name, len(found), LISTS[name], self.check_counts)
            names += [f"{images}/{path}" for path, _, _ in found]
            numbers += [(first + identity, camera) for _, identity, camera in found]
        self._check_there(folder, images, names, lists)
        identities, cameras = np.array(numbers, dtype=np.int64).T.copy()
        return Split(Files(folder, names), identities, cameras)

    def _read(self, path: Path, people: int) -> list[tuple[str, int, int]]:
        """(path, identity from 0, camera from 0) of each line."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {error}", GET) from error
        found = []
        seen: set[str] = set()
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            match = LINE.fullmatch(line.strip())
            name = NAME.fullmatch(match[1]) if match is not None else None
            if match is None or name is None:
                raise DataError(
                    f"{path}, line {number}: '{line.strip()[:60]}' is not an image of MSMT17 and "
                    f"its identity (like {self.release.example} 0)",
                    f"Use the official list files. {GET}",
                )
            identity, camera = int(match[2]), int(name[2])
            if identity != int(name[1]) or identity >= people or not 1 <= camera <= 15:
                raise DataError(
                    f"{path}, line {number}: identity {identity} of {match[1]} cannot be",
                    f"Use the official list files. {GET}",
                )
            if match[1] in seen:
                raise DataError(
                    f"{path}, line {number}: {match[1]} is listed already",
                    f"Use the official list files. {GET}",
                )
            seen.add(match[1])
            found.append((match[1], identity, camera - 1))
        return found

    def _check_there(self, folder: Path, images: str, names: list[str], lists: list[str]) -> None:
        """Whether the listed images exist. One listing per person's folder: asking for each file
        would take seconds on network disks.
        """
        there: set[str] = set()
        for person in {name.rsplit("/", 1)[0] for name in names}:
            if (folder / person).is_dir():
                with os.scandir(folder / person) as files:
                    there.update(f"{person}/{file.name}" for file in files)
        missing = [name for name in names if name not in there]
        if missing:
            raise DataError(
                f"{len(missing):,} of {len(names):,} images of {', '.join(lists)} are not in "
                f"{folder}: {shown(missing)}",
                f"Either {images} is incomplete, or the lists are of another version than the "
                f"images: unpack {self.release.title} with its own lists into an empty folder.",
            )


def _layout(version: str) -> Layout:
    train, test = IMAGES[version]
    place = release(version)
    parts = (folder_of(f"{train}/*", 32_621), folder_of(f"{test}/*", 93_820))
    return Layout(place.title, place.folders[0], parts, tuple(LISTS))


def _place(root: Path, names: Sequence[str], parts: Sequence[str]) -> Path | None:
    """The first folder that has one of `parts`. Any folder may hold a `test`, so the root itself
    counts only with a list file in it.
    """
    for name in names:
        folder = root / name
        if any((folder / part).is_dir() for part in parts) and (
            name != "." or any((folder / file).is_file() for file in LISTS)
        ):
            return folder
    return None
