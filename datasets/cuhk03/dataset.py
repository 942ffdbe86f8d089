"""CUHK03 (Li et al., CVPR 2014) by the new protocol (Zhong et al., CVPR 2017): 767 / 700."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import ConfigError, DataError, did_you_mean
from harness.data.facts import Facts
from harness.data.image_files import Files
from harness.data.layouts import Layout, Part
from harness.data.releases import Release, list_images, shown
from harness.data.subsets import SubsetRule
from harness.data.types import Dataset, ReIDData, Split

PARTS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
#: boxes → the word that folders and files use, and images by part
WORDS = {"detected": "detected", "labelled": "labeled"}
COUNTS = {
    "detected": {"train": 7_365, "query": 1_400, "gallery": 5_332},
    "labelled": {"train": 7_368, "query": 1_400, "gallery": 5_328},
}
#: two files of the new protocol: identities and cameras of all images, and who is where
PROTOCOL = "cuhk03_new_protocol_config_{}.mat"
ORIGINAL = "cuhk-03.mat"
FOLDERS = ("cuhk03-np", "CUHK03-NP", "cuhk03", "CUHK03", "cuhk03/cuhk03-np", "cuhk03_release", ".")
SUFFIXES = (".png", ".jpg")
#: identity, camera of the pair: 0003_c1_2.png
NAME = re.compile(r"(\d{4})_c([12])_\w+\.(?:png|jpg)")
GET = (
    "Get CUHK03-NP, folders of images made from it by the authors of the new protocol; "
    "datasets/cuhk03/README.md says where."
)


class CUHK03(Dataset):
    """CUHK03, new protocol: 767 identities for training, 700 for testing, pairs of cameras.

    Every person is seen by one of five pairs of cameras; the camera is its place in the pair, 0 or
    1. Two layouts are read: CUHK03-NP's folders as in Market-1501, in filename order; and the
    images under the names of the original (`1_001_1_01.png`) beside the protocol's .mat file, in
    its order.

    Args:
        root: the folder that holds the release under one of its usual names, or the release itself.
        boxes: `detected`, by a deformable part model, or `labelled`, by hand: in records and tables
            they have different names.
        check_counts: refuse anything but the official numbers of images.
        subset: options of `SubsetRule`, or None for everything.

    Raises:
        ConfigError: there are no such boxes.
    """

    def __init__(
        self,
        root: str | Path,
        boxes: str = "detected",
        check_counts: bool = True,
        subset: Mapping[str, int | bool] | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.boxes = "labelled" if boxes == "labeled" else str(boxes)
        if self.boxes not in WORDS:
            raise ConfigError(f"dataset.boxes={boxes} is unknown.", did_you_mean(self.boxes, WORDS))
        self.word = WORDS[self.boxes]
        self.check_counts = check_counts
        self.subset = None if subset is None else SubsetRule.parse(subset)
        title = f"CUHK03 ({self.boxes})"
        self.release = Release(title, "cuhk03", FOLDERS, "0003_c1_2.png")

    def layouts(self) -> Sequence[Layout]:
        """CUHK03-NP's folders; or the protocol's own images and file."""
        title, counts = self.release.title, COUNTS[self.boxes]
        home = f"{FOLDERS[0]}/{self.word}"
        folders = {part: (folder, counts[part]) for part, folder in PARTS.items()}
        own = tuple(
            Part(folder, ((f"{self.word}/{folder}",),), count, SUFFIXES)
            for folder, count in folders.values()
        )
        names = (f"cuhk03_{self.word}", f"images_{self.word}")
        images = Part(names[0], tuple((name,) for name in names), None, SUFFIXES)
        return [
            Layout(title, home, own),
            Layout(title, "cuhk03", (images,), (PROTOCOL.format(self.word),)),
        ]

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete, or not what it should be."""
        train, query, gallery = self._parts()
        name = f"cuhk03_{self.boxes}"
        if self.subset is not None:
            return ReIDData(f"{name}_subset", *self.subset.apply(train, query, gallery))
        counts = COUNTS[self.boxes]
        facts = Facts(
            train=counts["train"],
            train_identities=767,
            query=counts["query"],
            query_identities=700,
            gallery=counts["gallery"],
            junk=0,
            distractors=0,
            cameras=2,
            # two queries a person, one a camera: each gallery image answers one of them
            matches=counts["gallery"],
        )
        return ReIDData(name, train, query, gallery, facts=facts)

    def _parts(self) -> tuple[Split, ...]:
        for name in FOLDERS:
            folder = self.root / name / self.word
            if any((folder / part).is_dir() for part in PARTS.values()):
                return tuple(
                    self.release.market_part(
                        folder,
                        PARTS[part],
                        COUNTS[self.boxes][part],
                        NAME,
                        self.check_counts,
                        SUFFIXES,
                    )
                    for part in PARTS
                )
        protocol = PROTOCOL.format(self.word)
        for name in FOLDERS:
            folder = self.root / name
            for images in (f"cuhk03_{self.word}", f"images_{self.word}"):
                if (folder / images).is_dir():
                    if not (folder / protocol).is_file():
                        raise DataError(
                            f"{self.release.title} in {folder} is incomplete: {protocol} is "
                            "missing",
                            f"It tells training from test images. {GET}",
                        )
                    return self._by_protocol(folder, images, protocol)
        raise self._not_there()

    def _not_there(self) -> DataError:
        for name in FOLDERS:
            folder = self.root / name
            for place in (folder / ORIGINAL, folder / "cuhk03_release" / ORIGINAL):
                if place.is_file():
                    return DataError(
                        f"{place} is the original of CUHK03, a MATLAB file that only MATLAB or an "
                        "HDF5 library reads",
                        GET,
                    )
            other = next(w for w in WORDS.values() if w != self.word)
            if (folder / other / PARTS["train"]).is_dir():
                boxes = next(b for b, w in WORDS.items() if w == other)
                return DataError(
                    f"{folder} holds the {boxes} boxes of CUHK03, not the {self.boxes} ones",
                    f"They are different data sets: use dataset.boxes={boxes}, or get the others.",
                )
        tried = ", ".join(f"{name}/{self.word}" for name in FOLDERS[:-1])
        return DataError(
            f"{self.release.title} is not under {self.root} (tried {tried} and the folder itself)",
            f"Set HARNESS_DATA or data.root= to the folder that holds {FOLDERS[0]}. {GET}",
        )

    def _by_protocol(self, folder: Path, images: str, protocol: str) -> tuple[Split, ...]:
        """The parts as the protocol's .mat file lists them."""
        names, identities, cameras, rows = _read_protocol(folder / protocol)
        there = set(list_images(folder / images, SUFFIXES))
        missing = [name for name in names if name not in there]
        if missing:
            raise DataError(
                f"{len(missing):,} of {len(names):,} images that {protocol} lists are not in "
                f"{folder / images}: {shown(missing)}",
                GET,
            )
        for part, chosen in rows.items():
            where = folder / f"{protocol} ({part})"
            self.release.check_count(
                where, len(chosen), COUNTS[self.boxes][part], self.check_counts
            )
        return tuple(
            Split(
                Files(folder, [f"{images}/{names[i]}" for i in chosen]),
                identities[chosen],
                cameras[chosen],
            )
            for chosen in rows.values()
        )


def _read_protocol(path: Path) -> tuple[list[str], np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """File names, identities (N,), cameras (N,) from 0, and the rows of each part.

    Raises:
        DataError: it is not the protocol's file.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content: dict[str, Any] = loadmat(path)
        names = [str(cell[0]) for cell in content["filelist"].ravel()]
        identities = content["labels"].ravel().astype(np.int64)
        cameras = content["camId"].ravel().astype(np.int64) - 1
        rows = {
            part: content[f"{part}_idx"].ravel().astype(np.int64) - 1
            for part in ("train", "query", "gallery")
        }
        if not len(names) == len(identities) == len(cameras):
            raise ValueError("lists of different lengths")
        if any(len(r) and not 0 <= r.min() <= r.max() < len(names) for r in rows.values()):
            raise ValueError("rows that do not exist")
    except (
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        NotImplementedError,
        MatReadError,
    ) as error:
        raise DataError(f"{path} is not the file of the new protocol: {error}", GET) from error
    return names, identities, cameras, rows
