"""PersonX (Sun and Zheng, CVPR 2019): rendered people, in the two releases that papers use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from harness.core.errors import ConfigError, DataError, did_you_mean
from harness.data.facts import Facts
from harness.data.image_files import Files
from harness.data.layouts import Layout, part
from harness.data.releases import Release
from harness.data.subsets import SubsetRule
from harness.data.types import Dataset, ReIDData, Split

PARTS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
#: part → images: of the harder release, and of each of the six backgrounds of the first one
COUNTS = {
    "hard": {"train": 9_840, "query": 5_136, "gallery": 30_816},
    "v1": {"train": 14_760, "query": 856, "gallery": 30_816},
}
#: identity, camera, and (in v1) viewpoint: 0001_c3s1_01.jpg
NAME = re.compile(r"(\d{4})_c(\d{1,2})s\d_\w+\.jpg")
#: release → the cameras of its names, numbered here from 0 in this order
CAMERAS = {"hard": (3, 4, 8, 10, 11, 12), "v1": (1, 2, 3, 4, 5, 6)}
RELEASES = {
    "hard": Release(
        "PersonX", "personx", ("PersonX", "personx", "personX", "PersonX/PersonX", "."),
        "0001_c3s1_01.jpg",
    ),
    "v1": Release(
        "PersonX_v1", "personx", ("PersonX_v1", "PersonX_v1/PersonX_v1", "personx/PersonX_v1", "."),
        "0001_c1s1_01.jpg",
    ),
}  # fmt: skip


class PersonX(Dataset):
    """PersonX: 1,266 rendered people, 410 for training and 856 for testing; six cameras.

    Images are in filename order, in `v1` background by background. Cameras are numbered from 0 in
    the order of their numbers in the names. There is neither junk nor a distractor.

    Args:
        root: the folder that holds the release under one of its usual names, or the release itself.
        release: `hard`, with occlusion, low resolution and changing light, which papers on
            unsupervised methods report; or `v1`, the first one, folders 1 … 6.
        backgrounds: of `v1`, which of its folders; each is a camera.
        check_counts: refuse anything but the official numbers of images.
        subset: options of `SubsetRule`, or None for everything.

    Raises:
        ConfigError: no such release or background.
    """

    def __init__(
        self,
        root: str | Path,
        release: str = "hard",
        backgrounds: Sequence[int] = (1, 2, 3, 4, 5, 6),
        check_counts: bool = True,
        subset: Mapping[str, int | bool] | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        if release not in RELEASES:
            raise ConfigError(
                f"dataset.release={release} is unknown.", did_you_mean(str(release), RELEASES)
            )
        self.kind = release
        self.release = RELEASES[release]
        self.backgrounds = sorted(set(backgrounds))
        if len(self.backgrounds) < 2 or not set(self.backgrounds) <= set(CAMERAS["v1"]):
            raise ConfigError(
                f"dataset.backgrounds={list(backgrounds)} is no choice.",
                "Give two or more of 1, 2, 3, 4, 5, 6: a match is found in another one.",
            )
        self.check_counts = check_counts
        self.subset = None if subset is None else SubsetRule.parse(subset)

    def layouts(self) -> Sequence[Layout]:
        """The release's own; of v1, the folders of the backgrounds."""
        counts = COUNTS[self.kind]
        places = [""] if self.kind == "hard" else [f"{number}/" for number in self.backgrounds]
        parts = tuple(
            part(f"{place}{folder}", counts[name])
            for place in places
            for name, folder in PARTS.items()
        )
        return [Layout(self.release.title, self.release.folders[0], parts)]

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete, or not what it should be."""
        places = [""] if self.kind == "hard" else [f"{number}/" for number in self.backgrounds]
        wanted = [f"{place}{part}" for place in places for part in PARTS.values()]
        try:
            folder = self.release.find(self.root, wanted)
        except DataError as error:
            raise self._other(error) from error
        train, query, gallery = (self._part(folder, places, part) for part in PARTS)
        name = self._name()
        if self.subset is not None:
            parts = self.subset.apply(train, query, gallery)
            return ReIDData(f"{name}_subset", *parts)
        return ReIDData(name, train, query, gallery, facts=self._facts())

    def _name(self) -> str:
        """Six backgrounds are `personx_v1`, fewer have their numbers behind that, as in papers."""
        if self.kind == "hard":
            return "personx"
        some = "" if len(self.backgrounds) == 6 else "_" + "".join(map(str, self.backgrounds))
        return f"personx_v1{some}"

    def _other(self, error: DataError) -> DataError:
        """The same error, or that the other release is there."""
        other = "v1" if self.kind == "hard" else "hard"
        part = "1/query" if other == "v1" else "query"
        for name in RELEASES[other].folders:
            if (self.root / name / part).is_dir():
                return DataError(
                    f"{self.root / name} holds the other release of PersonX, not '{self.kind}'.",
                    f"They are different data sets: use dataset.release={other}.",
                )
        return error

    def _part(self, folder: Path, places: list[str], part: str) -> Split:
        names: list[str] = []
        numbers: list[tuple[int, int]] = []
        expected = COUNTS[self.kind][part]
        for place in places:
            sub = f"{place}{PARTS[part]}"
            found = self.release.list_images(folder, sub, expected)
            matches = self.release.parse(folder / sub, found, NAME)
            self.release.check_count(folder / sub, len(found), expected, self.check_counts)
            names += [f"{sub}/{name}" for name in found]
            numbers += [(int(m[1]), self._camera(folder / sub, m)) for m in matches]
        identities, cameras = np.array(numbers, dtype=np.int64).T.copy()
        return Split(Files(folder, names), identities, cameras)

    def _camera(self, folder: Path, match: re.Match[str]) -> int:
        known = CAMERAS[self.kind]
        if int(match[2]) not in known:
            raise DataError(
                f"{folder} holds {match[0]}, but this release has cameras "
                f"{', '.join(map(str, known))} only.",
                "Is it the other release? hard and v1 are different data sets: dataset.release=…",
            )
        return known.index(int(match[2]))

    def _facts(self) -> Facts:
        """Of the paper and the release; of v1, one camera a background."""
        times = 1 if self.kind == "hard" else len(self.backgrounds)
        counts = {part: times * count for part, count in COUNTS[self.kind].items()}
        return Facts(
            train=counts["train"],
            train_identities=410,
            query=counts["query"],
            query_identities=856,
            gallery=counts["gallery"],
            junk=0,
            distractors=0,
            cameras=6 if self.kind == "hard" else times,
        )
