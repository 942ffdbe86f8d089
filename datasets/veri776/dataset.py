"""VeRi-776 (Liu et al., ICME 2016): vehicles, twenty cameras."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from harness.core.errors import ConfigError, DataError
from harness.data.facts import Facts
from harness.data.layouts import Layout, part
from harness.data.releases import Release, shown
from harness.data.subsets import SubsetRule
from harness.data.types import Dataset, ReIDData, Split

FOLDERS = (
    "VeRi",
    "VeRi/VeRi",
    "veri",
    "VeRi-776",
    "VeRi776",
    "veri776",
    "veri-776",
    "VeRi_with_plate",
    ".",
)
#: part → (sub-folder, images in the official release)
PARTS = {
    "train": ("image_train", 37_778),
    "query": ("image_query", 1_678),
    "gallery": ("image_test", 11_579),
}
#: vehicle, camera, time: 0002_c002_00030600_0.jpg
NAME = re.compile(r"(\d{4})_c(0\d\d)_\d{8}_\d+\.jpg")
TRACKS = "test_track.txt"
#: query by query, positions in name_test.txt from 1 of what is correct, and of what is junk
TRUTH, JUNK = "gt_index.txt", "jk_index.txt"
RELEASE = Release("VeRi-776", "veri776", FOLDERS, "0002_c002_00030600_0.jpg")
FACTS = Facts(
    train=37_778,
    train_identities=576,
    query=1_678,
    query_identities=200,
    gallery=11_579,
    junk=0,
    distractors=0,
    cameras=20,
)


class VeRi776(Dataset):
    """VeRi-776: 20 cameras, 576 vehicles for training, 200 for testing.

    Images are in filename order. Cameras c001 … c020 are 0 … 19. The query images are in the
    gallery too, and go with all others of their vehicle and camera, which are junk for that query.

    Args:
        root: the folder that holds the release under one of its usual names, or the release itself.
        tracks: rank tracks instead of images ("image-to-track"): a track is as near as its nearest
            image, and tracks of the query's vehicle and camera are junk. Needs `test_track.txt`.
        check_counts: refuse anything but the official numbers of images.
        subset: options of `SubsetRule`, or None for everything.

    Raises:
        ConfigError: tracks of a subset.
    """

    def __init__(
        self,
        root: str | Path,
        tracks: bool = False,
        check_counts: bool = True,
        subset: Mapping[str, int | bool] | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.tracks = tracks
        self.check_counts = check_counts
        self.subset = None if subset is None else SubsetRule.parse(subset)
        if tracks is not True and tracks is not False:
            raise ConfigError(f"dataset.tracks={tracks} must be true or false.")

    def layouts(self) -> Sequence[Layout]:
        """The official archive's, with its lists."""
        parts = tuple(part(folder, images) for folder, images in PARTS.values())
        lists = ("name_train.txt", "name_query.txt", "name_test.txt", TRUTH, JUNK, TRACKS)
        return [Layout(RELEASE.title, FOLDERS[0], parts, extra=lists)]

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete, or not what it should be."""
        folder = RELEASE.find(self.root, (part for part, _ in PARTS.values()))
        train, query, gallery = (
            RELEASE.market_part(folder, *PARTS[part], NAME, self.check_counts) for part in PARTS
        )
        notes = _agreement(folder, query, gallery)
        if self.tracks:
            gallery = replace(gallery, tracks=_read_tracks(folder / TRACKS, gallery))
        if self.subset is not None:
            parts = self.subset.apply(train, query, gallery)
            return ReIDData("veri776_subset", *parts, notes=notes)
        return ReIDData("veri776", train, query, gallery, notes=notes, facts=FACTS)


def _read_tracks(path: Path, gallery: Split) -> np.ndarray:
    """(G,) the line of `test_track.txt` that each gallery image stands in, from 0.

    Raises:
        DataError: the file is missing, does not fit, or mixes vehicles or cameras.
    """
    if not path.is_file():
        raise DataError(
            f"{path} is missing; dataset.tracks=true needs it",
            "It belongs to the official archive: unpack it again, or use dataset.tracks=false.",
        )
    folder, _ = PARTS["gallery"]
    count = len(gallery.images)
    place = {gallery.images.name(i).removeprefix(f"{folder}/"): i for i in range(count)}
    tracks = np.full(count, -1, dtype=np.int64)
    number = 0
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        names = [word for word in text.split() if NAME.fullmatch(word)]
        unknown = [name for name in names if name not in place]
        if unknown:
            raise DataError(f"{path}, line {line}: {shown(unknown)} are not in {folder}")
        rows = np.array([place[name] for name in names], dtype=np.int64)
        if not len(rows):
            continue
        assert gallery.cameras is not None
        if len(np.unique(gallery.identities[rows])) + len(np.unique(gallery.cameras[rows])) != 2:
            raise DataError(f"{path}, line {line}: a track is of one vehicle and one camera")
        tracks[rows] = number
        number += 1
    if (tracks < 0).any():
        lost = [gallery.images.name(int(i)) for i in np.flatnonzero(tracks < 0)]
        raise DataError(f"{path}: {len(lost)} images of {folder} are in no track: {shown(lost)}")
    return tracks


def _agreement(folder: Path, query: Split, gallery: Split) -> dict[str, int | float | str]:
    """For how many queries the official lists of correct and junk images say what the rule of
    identity and camera says. {} where the lists are not there.
    """
    files = [folder / name for name in ("name_query.txt", "name_test.txt", TRUTH, JUNK)]
    if not all(path.is_file() for path in files):
        return {}
    asked, tested, right, junk = (path.read_text(encoding="utf-8").splitlines() for path in files)
    tested = [name.strip() for name in tested]
    agree = 0
    matches = {name.strip(): NAME.fullmatch(name.strip()) for name in {*asked, *tested}}
    seen: dict[str, dict[str, set[int]]] = {}
    for position, name in enumerate(tested, start=1):
        match = matches[name]
        if match is not None:
            seen.setdefault(match[1], {}).setdefault(match[2], set()).add(position)
    for name, good, bad in zip(asked, right, junk, strict=False):
        match = matches[name.strip()]
        if match is None:
            continue
        cameras = seen.get(match[1], {})
        own = cameras.get(match[2], set())
        others = set().union(*cameras.values()) - own
        agree += others == _numbers(good) and own == _numbers(bad)
    return {"queries_as_official_lists": agree, "queries_in_official_lists": len(asked)}


def _numbers(line: str) -> set[int]:
    return {int(word) for word in line.split() if word.isdecimal() and word != "0"}
