"""PersonX (Sun and Zheng, CVPR 2019): rendered pedestrians, in the two releases papers use."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from harness.core.errors import ConfigError, DataError
from harness.data.layouts import Layout, part
from harness.data.releases import Release, ReleasedDataset, make_split
from harness.data.types import DatasetFacts, ReIDData, Split

PARTS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
#: images of each part: of the hard release, and of each of the six backgrounds of v1
COUNTS = {
    "hard": {"train": 9_840, "query": 5_136, "gallery": 30_816},
    "v1": {"train": 14_760, "query": 856, "gallery": 30_816},
}
#: identity, camera, and (in v1) viewpoint: 0001_c3s1_01.jpg
NAME = re.compile(r"(\d{4})_c(\d{1,2})s\d_\w+\.jpg")
#: camera numbers in file names; they become 0, 1, …
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


class PersonX(ReleasedDataset):
    """PersonX: 1,266 rendered identities, 410 for training and 856 for testing; six cameras.

    Images are in filename order, in `v1` background by background. Cameras are numbered from 0 in
    the order of their numbers in file names. There are no junk boxes or distractors.

    Args:
        release: `hard`, with occlusion, low resolution and changing light, as reported in papers on
            unsupervised methods; or `v1`, the first release, in folders 1 … 6.
        backgrounds: folders of `v1` to use; each is a camera. Others: see `ReleasedDataset`.
    """

    def __init__(
        self,
        root: str | Path,
        release: Annotated[Literal["hard", "v1"], Field(description="release")] = "hard",
        backgrounds: Annotated[
            Sequence[Annotated[int, Field(ge=1, le=6)]],
            Field(min_length=2, description="folders of v1 to use; each is a camera"),
        ] = (1, 2, 3, 4, 5, 6),
        check_counts: bool = True,
        subset: Mapping[str, int | bool] | None = None,
    ) -> None:
        super().__init__(RELEASES[release], root, check_counts, subset)
        self.kind, self.backgrounds = release, sorted(set(backgrounds))
        if len(self.backgrounds) < 2:
            raise ConfigError(
                f"dataset.backgrounds={list(backgrounds)} must be two or more different ones.",
                "Matches are across backgrounds.",
            )

    @property
    def _prefixes(self) -> list[str]:
        """Prefixes of the part folders: one per background in v1."""
        return [""] if self.kind == "hard" else [f"{number}/" for number in self.backgrounds]

    def layouts(self) -> Sequence[Layout]:
        """The layout of the release; for v1, the folders of the backgrounds."""
        parts = tuple(
            part(f"{prefix}{folder}", COUNTS[self.kind][name])
            for prefix in self._prefixes
            for name, folder in PARTS.items()
        )
        return [Layout(self.release.title, self.release.folders[0], parts)]

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete or not as expected."""
        folders = [f"{prefix}{part}" for prefix in self._prefixes for part in PARTS.values()]
        try:
            folder = self.release.find(self.root, folders)
        except DataError as error:
            if (other := self._other_release()) is not None:
                raise other from error
            raise
        train, query, gallery = (self._split(folder, part) for part in PARTS)
        return self.make_data(self._name(), (train, query, gallery))

    def _name(self) -> str:
        """`personx_v1` for six backgrounds; fewer are appended as numbers, as in papers."""
        if self.kind == "hard":
            return "personx"
        some = "" if len(self.backgrounds) == 6 else "_" + "".join(map(str, self.backgrounds))
        return f"personx_v1{some}"

    def _other_release(self) -> DataError | None:
        """The error to raise if the other release is present instead."""
        other, part = ("v1", "1/query") if self.kind == "hard" else ("hard", "query")
        for name in RELEASES[other].folders:
            if (self.root / name / part).is_dir():
                return DataError(
                    f"{self.root / name} holds the other release of PersonX, not '{self.kind}'.",
                    f"They are different data sets: use dataset.release={other}.",
                )
        return None

    def _split(self, folder: Path, part: str) -> Split:
        names: list[str] = []
        numbers: list[tuple[int, int]] = []
        expected = COUNTS[self.kind][part]
        for prefix in self._prefixes:
            sub = f"{prefix}{PARTS[part]}"
            files = self.release.list_images(folder, sub, expected)
            matches = self.release.parse(folder / sub, files, NAME)
            self.release.check_count(folder / sub, len(files), expected, self.check_counts)
            names += [f"{sub}/{name}" for name in files]
            numbers += [(int(m[1]), self._camera(folder / sub, m)) for m in matches]
        return make_split(folder, names, numbers)

    def _camera(self, folder: Path, match: re.Match[str]) -> int:
        known = CAMERAS[self.kind]
        if int(match[2]) not in known:
            cameras = ", ".join(map(str, known))
            raise DataError(
                f"{folder} has {match[0]}, but this release has cameras {cameras} only.",
                "It may be the other release: hard and v1 are different data sets. Set "
                "dataset.release=.",
            )
        return known.index(int(match[2]))

    def release_facts(self) -> DatasetFacts:
        """From the paper and the release; in v1, one camera per background."""
        times = len(self._prefixes)
        counts = {part: times * count for part, count in COUNTS[self.kind].items()}
        return DatasetFacts(
            train=counts["train"], query=counts["query"], gallery=counts["gallery"],
            train_identities=410, query_identities=856, junk=0, distractors=0,
            cameras=6 if self.kind == "hard" else times,
        )  # fmt: skip
