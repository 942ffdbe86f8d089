"""VeRi-776 (Liu et al., ICME 2016): vehicles, twenty cameras."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from harness.core.errors import DataError
from harness.data.layouts import Layout, part
from harness.data.releases import MarketDataset, Release, shown
from harness.data.types import DatasetFacts, ReIDData, Split

RELEASE = Release(
    title="VeRi-776",
    page="veri776",
    folders=(
        "VeRi", "VeRi/VeRi", "veri", "VeRi-776", "VeRi776", "veri776", "veri-776",
        "VeRi_with_plate", ".",
    ),
    example="0002_c002_00030600_0.jpg",
)  # fmt: skip
TRACKS = "test_track.txt"
#: positions in name_test.txt, from 1, of each query's correct and junk images
CORRECT_LIST, JUNK_LIST = "gt_index.txt", "jk_index.txt"
#: part → (sub-folder, images in the official release)
PARTS = {
    "train": ("image_train", 37_778),
    "query": ("image_query", 1_678),
    "gallery": ("image_test", 11_579),
}
#: vehicle, camera, time: 0002_c002_00030600_0.jpg
NAME = re.compile(r"(\d{4})_c(0\d\d)_\d{8}_\d+\.jpg")
FACTS = DatasetFacts(
    train=37_778, train_identities=576, query=1_678, query_identities=200, gallery=11_579, junk=0,
    distractors=0, cameras=20,
)  # fmt: skip


class VeRi776(MarketDataset):
    """VeRi-776: 20 cameras, 576 training vehicles, 200 test vehicles.

    Images are in filename order. Cameras c001 … c020 are 0 … 19. The gallery contains the query
    images; like all images of the query's vehicle and camera, they are junk for that query.

    Args:
        tracks: rank tracks instead of images ("image-to-track"): a track's distance is that of its
            nearest image, and tracks of the query's vehicle and camera are junk. Needs
            `test_track.txt`. Others: see `ReleasedDataset`.
    """

    def __init__(
        self,
        root: str | Path,
        tracks: Annotated[bool, Field(description="rank tracks instead of images")] = False,
        check_counts: bool = True,
        subset: Mapping[str, int | bool] | None = None,
    ) -> None:
        super().__init__(RELEASE, PARTS, NAME, root, check_counts, subset)
        self.tracks = tracks

    def layouts(self) -> Sequence[Layout]:
        """The layout of the official archive, with its lists."""
        parts = tuple(part(folder, images) for folder, images in PARTS.values())
        names = ("name_train.txt", "name_query.txt", "name_test.txt")
        lists = (*names, CORRECT_LIST, JUNK_LIST, TRACKS)
        return [Layout(RELEASE.title, RELEASE.folders[0], parts, extra=lists)]

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete or not as expected."""
        folder, (train, query, gallery) = self.find_splits()
        notes = _compare_with_lists(folder)
        query, gallery = (
            replace(split, originals=_file_names(split)) for split in (query, gallery)
        )
        if self.tracks:
            gallery = replace(gallery, tracks=_read_tracks(folder / TRACKS, gallery))
        return self.make_data("veri776", (train, query, gallery), notes)

    def release_facts(self) -> DatasetFacts:
        return FACTS


def _file_names(split: Split) -> np.ndarray:
    """(N,) names without their folders: the queries are in image_test, too."""
    return np.array([Path(split.images.name(i)).name for i in range(len(split.images))])


def _read_tracks(path: Path, gallery: Split) -> np.ndarray:
    """(G,) the track of each gallery image: lines of `test_track.txt`, from 0.

    Raises DataError if it is missing, does not match the gallery, or mixes vehicles or cameras.
    """
    if not path.is_file():
        raise DataError(
            f"{path} is missing; dataset.tracks=true needs it",
            "It is part of the official archive: unpack it again, or use dataset.tracks=false.",
        )
    folder, _ = PARTS["gallery"]
    count = len(gallery.images)
    index = {gallery.images.name(i).removeprefix(f"{folder}/"): i for i in range(count)}
    tracks = np.full(count, -1, dtype=np.int64)
    track = 0
    for line, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        names = [word for word in text.split() if NAME.fullmatch(word)]
        unknown = [name for name in names if name not in index]
        if unknown:
            raise DataError(f"{path}, line {line}: {shown(unknown)} are not in {folder}")
        rows = np.array([index[name] for name in names], dtype=np.int64)
        if not len(rows):
            continue
        assert gallery.cameras is not None
        if len(np.unique(gallery.identities[rows])) + len(np.unique(gallery.cameras[rows])) != 2:
            raise DataError(f"{path}, line {line}: a track is of one vehicle and one camera")
        tracks[rows] = track
        track += 1
    if (tracks < 0).any():
        missing = [gallery.images.name(int(i)) for i in np.flatnonzero(tracks < 0)]
        problem = f"{path}: {len(missing)} images of {folder} are in no track: {shown(missing)}"
        raise DataError(problem)
    return tracks


def _compare_with_lists(folder: Path) -> dict[str, int | float | str]:
    """Number of queries whose official correct and junk lists match the identity-camera rule.

    {} if the release has no such lists.
    """
    files = [folder / name for name in ("name_query.txt", "name_test.txt", CORRECT_LIST, JUNK_LIST)]
    if not all(path.is_file() for path in files):
        return {}
    queries, tested, correct, junk = (
        [line.strip() for line in path.read_text(encoding="utf-8").splitlines()] for path in files
    )
    matches = {name: NAME.fullmatch(name) for name in {*queries, *tested}}
    seen: dict[str, dict[str, set[int]]] = {}  # vehicle → camera → positions
    for position, name in enumerate(tested, start=1):
        match = matches[name]
        if match is not None:
            seen.setdefault(match[1], {}).setdefault(match[2], set()).add(position)
    agree = 0
    for name, correct_line, junk_line in zip(queries, correct, junk, strict=False):
        match = matches[name]
        if match is None:
            continue
        cameras = seen.get(match[1], {})
        same_camera = cameras.get(match[2], set())
        others = set().union(*cameras.values()) - same_camera
        agree += others == _numbers(correct_line) and same_camera == _numbers(junk_line)
    return {"queries_as_official_lists": agree, "queries_in_official_lists": len(queries)}


def _numbers(line: str) -> set[int]:
    return {int(word) for word in line.split() if word.isdecimal() and word != "0"}
