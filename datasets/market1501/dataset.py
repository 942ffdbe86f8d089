"""Market-1501 (Zheng et al., ICCV 2015), as released in v15.09.15."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from harness.errors import ConfigError, DataError, did_you_mean
from harness.images.sources import Files
from harness.interfaces import Dataset, ReIDData, Split
from harness.seeds import derive

#: where the release may lie under the data root; its archives unpack to the first of these
FOLDERS = (
    "Market-1501-v15.09.15",
    "Market-1501-v15.09.15/Market-1501-v15.09.15",
    "Market-1501",
    "market-1501",
    "Market1501",
    "market1501",
    "market1501/Market-1501-v15.09.15",
    ".",
)
#: part → (sub-folder, images in the official release)
PARTS = {
    "train": ("bounding_box_train", 12_936),
    "query": ("query", 3_368),
    "gallery": ("bounding_box_test", 19_732),
}
#: identity, camera, sequence, frame, box: 0002_c1s1_000451_03.jpg, -1_c3s1_000000_00.jpg
#: six queries of the official release end in .jpg.jpg; they count
NAME = re.compile(r"(-1|\d{4})_c([1-6])s\d_\d{6}_\d{2}\.jpg(\.jpg)?")
JUNK, DISTRACTOR = -1, 0
WHERE = (
    "Set HARNESS_DATA or data.root= to the folder that holds Market-1501-v15.09.15; "
    "datasets/market1501/README.md says where to get it."
)


@dataclass(frozen=True)
class SubsetRule:
    """A fixed part of the data set, for quick runs.

    Identities are ranked by a hash of (seed, part, identity) and the first ones are taken, so a
    smaller subset is contained in a larger one of the same seed. All images of the chosen
    identities are kept. Junk and distractors are dropped unless `distractors` keeps them all.
    """

    train_identities: int
    test_identities: int
    seed: int = 0
    distractors: bool = False

    @classmethod
    def parse(cls, options: Mapping[str, int | bool]) -> SubsetRule:
        """From the config's mapping. Raises ConfigError for unknown, missing or wrong options."""
        known = [field.name for field in fields(cls)]
        for key in options:
            if key not in known:
                raise ConfigError(
                    f"dataset.subset has no option '{key}'", did_you_mean(str(key), known)
                )
        values = {key: int(value) for key, value in options.items()}
        if min(values.get("train_identities", 0), values.get("test_identities", 0)) < 1:
            raise ConfigError(
                f"dataset.subset={dict(options)} leaves no identities",
                "Give train_identities and test_identities, both at least 1.",
            )
        return cls(
            values["train_identities"],
            values["test_identities"],
            values.get("seed", 0),
            bool(values.get("distractors", False)),
        )

    def choose(self, identities: np.ndarray, part: str, count: int) -> np.ndarray:
        """`count` of the identities that occur, junk and distractors aside."""
        known = [int(i) for i in np.unique(identities) if i not in (JUNK, DISTRACTOR)]
        if count > len(known):
            raise DataError(
                f"dataset.subset asks for {count} {part} identities; there are {len(known)}",
                f"Use dataset.subset.{part}_identities={len(known)} or fewer.",
            )
        ranked = sorted(known, key=lambda identity: derive(self.seed, "subset", part, identity))
        return np.array(ranked[:count], dtype=np.int64)


class Market1501(Dataset):
    """Market-1501: 6 cameras, 751 identities for training, 750 for testing.

    Images are in filename order. Cameras c1 … c6 are 0 … 5. The gallery holds all 19,732 images:
    3,819 junk boxes with identity -1, which evaluation drops (15,913 remain), and 2,798 distractors
    with identity 0.

    Args:
        root: the folder that holds the release under one of its usual names, or the release itself.
        check_counts: refuse anything but the official numbers of images.
        subset: options of `SubsetRule`, or None for everything.
    """

    def __init__(
        self,
        root: str | Path,
        check_counts: bool = True,
        subset: Mapping[str, int | bool] | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.check_counts = check_counts
        self.subset = None if subset is None else SubsetRule.parse(subset)

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete, or not what it should be."""
        folder = self._find()
        train, query, gallery = (self._part(folder, *PARTS[part]) for part in PARTS)
        if self.subset is not None:
            train, query, gallery = self._choose(self.subset, train, query, gallery)
        return ReIDData(
            "market1501" if self.subset is None else "market1501_subset",
            train,
            query,
            gallery,
            notes={
                "junk": int((gallery.identities == JUNK).sum()),
                "distractors": int((gallery.identities == DISTRACTOR).sum()),
            },
        )

    def _find(self) -> Path:
        """The folder of the release: the first that has at least one of its parts."""
        tried = [self.root / name for name in FOLDERS]
        for folder in tried:
            if any((folder / part).is_dir() for part, _ in PARTS.values()):
                return folder
        raise DataError(
            f"Market-1501 is not under {self.root} (tried {', '.join(FOLDERS[:-1])} and the folder "
            "itself)",
            WHERE,
        )

    def _part(self, folder: Path, part: str, expected: int) -> Split:
        """Parse the names of one sub-folder's images."""
        if not (folder / part).is_dir():
            raise DataError(
                f"Market-1501 in {folder} is incomplete: {part} is missing",
                f"Unpack the archive again; {part} has {expected:,} images.",
            )
        # macOS archives add a hidden ._ file for each image
        files = (folder / part).glob("*.jpg")
        names = sorted(path.name for path in files if not path.name.startswith("."))
        matches = [NAME.fullmatch(name) for name in names]
        wrong = [name for name, match in zip(names, matches, strict=True) if match is None]
        if wrong:
            shown = ", ".join(wrong[:3]) + (", …" if len(wrong) > 3 else "")
            raise DataError(
                f"{len(wrong)} of {len(names)} file names in {folder / part} are not Market-1501's "
                f"(like 0002_c1s1_000451_03.jpg): {shown}",
                "Remove these files, or use dataset=folder for images of your own.",
            )
        self._check_count(folder / part, len(names), expected)
        parsed = [(int(match[1]), int(match[2]) - 1) for match in matches if match is not None]
        identities, cameras = np.array(parsed, dtype=np.int64).T.copy()
        return Split(Files(folder, [f"{part}/{name}" for name in names]), identities, cameras)

    def _check_count(self, folder: Path, count: int, expected: int) -> None:
        if count == 0 or (self.check_counts and count < expected):
            raise DataError(
                f"{folder} is incomplete: {count:,} of {expected:,} images",
                "Unpack the archive again, or use dataset.check_counts=false for a part of it.",
            )
        if self.check_counts and count > expected:
            raise DataError(
                f"{folder} has {count:,} images, {count - expected:,} more than the official "
                f"{expected:,}",
                "Unpack the archive into an empty folder; numbers on other images cannot be "
                "compared. dataset.check_counts=false takes them all the same.",
            )

    @staticmethod
    def _choose(
        rule: SubsetRule, train: Split, query: Split, gallery: Split
    ) -> tuple[Split, Split, Split]:
        chosen = rule.choose(train.identities, "train", rule.train_identities)
        tested = rule.choose(query.identities, "test", rule.test_identities)
        in_gallery = [*tested, JUNK, DISTRACTOR] if rule.distractors else tested
        return (
            train.subset(np.flatnonzero(np.isin(train.identities, chosen))),
            query.subset(np.flatnonzero(np.isin(query.identities, tested))),
            gallery.subset(np.flatnonzero(np.isin(gallery.identities, in_gallery))),
        )
