"""CUHK03 (Li et al., CVPR 2014) with the new protocol (Zhong et al., CVPR 2017): 767 / 700."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from harness.core.errors import DataError
from harness.data.image_files import ImageFiles
from harness.data.layouts import Layout, Part
from harness.data.releases import Release, ReleasedDataset, Splits, list_images, shown
from harness.data.types import DatasetFacts, ReIDData, Split

PARTS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
#: boxes → the word used in folder and file names
WORDS = {"detected": "detected", "labelled": "labeled"}
OTHER_BOXES = {"detected": "labelled", "labelled": "detected"}
COUNTS = {
    "detected": {"train": 7_365, "query": 1_400, "gallery": 5_332},
    "labelled": {"train": 7_368, "query": 1_400, "gallery": 5_328},
}
#: file of the new protocol: identities, cameras and the split of all images
PROTOCOL = "cuhk03_new_protocol_config_{}.mat"
ORIGINAL = "cuhk-03.mat"
FOLDERS = ("cuhk03-np", "CUHK03-NP", "cuhk03", "CUHK03", "cuhk03/cuhk03-np", "cuhk03_release", ".")
#: of other projects, for each kind of boxes
OTHER_FOLDERS = ("cuhk03_np_{}", "cuhk03-np-{}", "cuhk03_{}")
SUFFIXES = (".png", ".jpg")
#: identity, camera of the pair: 0003_c1_2.png
NAME = re.compile(r"(\d{4})_c([12])_\w+\.(?:png|jpg)")
GET = (
    "Get CUHK03-NP, image folders made by the authors of the new protocol; "
    "datasets/cuhk03/README.md says where."
)


class CUHK03(ReleasedDataset):
    """CUHK03, new protocol: 767 training identities, 700 test identities, pairs of cameras.

    Every identity is seen by one of five camera pairs; the camera id is 0 or 1, its position in the
    pair. Two layouts are supported: CUHK03-NP's folders like Market-1501's, in filename order; and
    images with their original names (`1_001_1_01.png`) beside the protocol's .mat file, in its
    order.

    Args:
        boxes: `detected` by a deformable part model, or `labelled` by hand; they have different
            names in records and tables. Others: see `ReleasedDataset`.
    """

    def __init__(
        self,
        root: str | Path,
        boxes: Annotated[
            Literal["detected", "labelled", "labeled"],
            Field(description="detected or hand-drawn boxes"),
        ] = "detected",
        check_counts: bool = True,
        subset: Mapping[str, int | bool] | None = None,
    ) -> None:
        self.boxes = "labelled" if boxes == "labeled" else boxes
        self.word = WORDS[self.boxes]
        release = Release(f"CUHK03 ({self.boxes})", "cuhk03", FOLDERS, "0003_c1_2.png")
        super().__init__(release, root, check_counts, subset)

    @property
    def _image_folders(self) -> tuple[str, str]:
        """Names of the folder of images that the protocol's file lists."""
        return f"cuhk03_{self.word}", f"images_{self.word}"

    def layouts(self) -> Sequence[Layout]:
        """CUHK03-NP's folders; or the protocol's images and file."""
        title, counts = self.release.title, COUNTS[self.boxes]
        homes = dict.fromkeys((self.word, f"*{self.word}", f"*{self.boxes}"))
        folders = tuple(
            Part(folder, tuple((f"{home}/{folder}",) for home in homes), counts[part], SUFFIXES)
            for part, folder in PARTS.items()
        )
        names = self._image_folders
        images = Part(names[0], tuple((name,) for name in names), None, SUFFIXES)
        return [
            Layout(title, f"{FOLDERS[0]}/{self.word}", folders),
            Layout(title, "cuhk03", (images,), (PROTOCOL.format(self.word),)),
        ]

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete or not as expected."""
        return self.make_data(f"cuhk03_{self.boxes}", self._splits())

    def release_facts(self) -> DatasetFacts:
        """Of the paper and the protocol's files."""
        counts = COUNTS[self.boxes]
        return DatasetFacts(
            train=counts["train"], query=counts["query"], gallery=counts["gallery"],
            train_identities=767, query_identities=700, junk=0, distractors=0, cameras=2,
            # each identity has one query per camera: each gallery image matches one of them
            matches=counts["gallery"],
        )  # fmt: skip

    def _splits(self) -> Splits:
        for folder in self._homes(self.boxes):
            if any((folder / part).is_dir() for part in PARTS.values()):
                train, query, gallery = (
                    self.market_split(folder, PARTS[part], count, NAME, SUFFIXES)
                    for part, count in COUNTS[self.boxes].items()
                )
                return train, query, gallery
        protocol = PROTOCOL.format(self.word)
        for name in FOLDERS:
            folder = self.root / name
            for images in self._image_folders:
                if (folder / images).is_dir():
                    if not (folder / protocol).is_file():
                        problem = f"{self.release.title} in {folder} is incomplete: {protocol} is "
                        hint = f"It defines the training and test images. {GET}"
                        raise DataError(f"{problem}missing", hint)
                    return self._splits_of_protocol(folder, images, protocol)
        raise self._not_found()

    def _homes(self, boxes: str) -> Iterator[Path]:
        """Where the folders of some boxes may be: CUHK03-NP's own, then those of other projects."""
        word = WORDS[boxes]
        for name in FOLDERS:
            yield self.root / name / word
        for spelling in dict.fromkeys((word, boxes)):
            for name in OTHER_FOLDERS:
                yield self.root / name.format(spelling)
            if self.root.resolve().name.endswith(spelling):
                yield self.root

    def _not_found(self) -> DataError:
        other = OTHER_BOXES[self.boxes]
        for name in FOLDERS:
            folder = self.root / name
            for path in (folder / ORIGINAL, folder / "cuhk03_release" / ORIGINAL):
                if path.is_file():
                    problem = f"{path} is the original of CUHK03, a MATLAB 7.3 file, which is not "
                    return DataError(f"{problem}supported", GET)
        for folder in self._homes(other):
            if (folder / PARTS["train"]).is_dir():
                return DataError(
                    f"{folder} holds the {other} boxes of CUHK03, not the {self.boxes} ones",
                    f"They are different data sets: use dataset.boxes={other}, or get the others.",
                )
        tried = ", ".join(
            [f"{name}/{self.word}" for name in FOLDERS[:-1]]
            + [name.format(self.word) for name in OTHER_FOLDERS]
        )
        return DataError(
            f"{self.release.title} is not under {self.root} (tried {tried} and the folder itself)",
            f"Set HARNESS_DATA or data.root= to the folder that contains {FOLDERS[0]}. {GET}",
        )

    def _splits_of_protocol(self, folder: Path, images: str, protocol: str) -> Splits:
        """The splits that the protocol's .mat file defines."""
        names, identities, cameras, rows = _read_protocol(folder / protocol)
        present = set(list_images(folder / images, SUFFIXES))
        missing = [name for name in names if name not in present]
        if missing:
            raise DataError(
                f"{len(missing):,} of {len(names):,} images that {protocol} lists are not in "
                f"{folder / images}: {shown(missing)}",
                GET,
            )
        for part, chosen in rows.items():
            source = folder / f"{protocol} ({part})"
            expected = COUNTS[self.boxes][part]
            self.release.check_count(source, len(chosen), expected, self.check_counts)
        train, query, gallery = (
            Split(
                ImageFiles(folder, [f"{images}/{names[i]}" for i in r]), identities[r], cameras[r]
            )
            for r in rows.values()
        )
        return train, query, gallery


def _read_protocol(path: Path) -> tuple[list[str], np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Names, identities (N,), cameras (N,) from 0, and the rows of each part; raises DataError."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content: dict[str, Any] = loadmat(path)
        names = [str(entry[0]) for entry in content["filelist"].ravel()]
        identities = content["labels"].ravel().astype(np.int64)
        cameras = content["camId"].ravel().astype(np.int64) - 1
        rows = {part: content[f"{part}_idx"].ravel().astype(np.int64) - 1 for part in PARTS}
        if not len(names) == len(identities) == len(cameras):
            raise ValueError("lists of different lengths")
        if any(len(r) and not 0 <= r.min() <= r.max() < len(names) for r in rows.values()):
            raise ValueError("rows that do not exist")
    except (
        OSError, ValueError, KeyError, IndexError, TypeError, NotImplementedError, MatReadError,
    ) as error:  # fmt: skip
        raise DataError(f"{path} is not the file of the new protocol: {error}", GET) from error
    return names, identities, cameras, rows
