"""CUHK01 (Li, Zhao and Wang, ACCV 2012): the `campus` folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.core.errors import ConfigError, DataError
from harness.core.seeds import derive
from harness.data.facts import Facts
from harness.data.image_files import Files
from harness.data.layouts import Layout, part
from harness.data.releases import Release, shown
from harness.data.types import Dataset, ReIDData, Split

FOLDERS = ("CUHK01", "CUHK01/CUHK01", "cuhk01", "cuhk01/CUHK01", ".")
PART = "campus"
PEOPLE, IMAGES = 971, 3_884
#: people to test on and seed of the split; its fingerprint, of a copy that agrees in all else
DEFAULTS = (486, 0)
FINGERPRINT = "2476d36fa31ff2eb173f54dae365c451"
#: identity, picture: 0001001.png; pictures 1 and 2 are camera A's, 3 and 4 camera B's
NAME = re.compile(r"(\d{4})00([1-4])\.png")
RELEASE = Release("CUHK01", "cuhk01", FOLDERS, "0001001.png")


class CUHK01(Dataset):
    """CUHK01: 971 people, two cameras, two pictures a camera.

    There is no official split. The people to test on are drawn by a hash of (split_seed, identity);
    the rest is for training. Queries are the pictures of camera A (0) of the people to test on, the
    gallery those of camera B (1).

    Args:
        root: the folder that holds the release under one of its usual names, or the release itself.
        check_counts: refuse anything but 971 people with four pictures each.
        test_identities: how many people to test on; 486 and 100 are the field's.
        split_seed: another seed draws other people; papers report the mean of ten draws.

    Raises:
        ConfigError: numbers that make no split.
    """

    def __init__(
        self,
        root: str | Path,
        check_counts: bool = True,
        test_identities: int = 486,
        split_seed: int = 0,
    ) -> None:
        self.root = Path(root).expanduser()
        self.check_counts = check_counts
        if not 1 <= test_identities < PEOPLE:
            raise ConfigError(
                f"dataset.test_identities={test_identities} leaves nobody to train or test on.",
                f"Give 1 to {PEOPLE - 1}; 486 and 100 are usual.",
            )
        self.test_identities = int(test_identities)
        self.split_seed = int(split_seed)

    def layouts(self) -> Sequence[Layout]:
        """A folder `campus`, under whatever."""
        return [Layout(RELEASE.title, FOLDERS[0], (part(PART, IMAGES, ".png"),))]

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete, or not what it should be."""
        folder = RELEASE.find(self.root, [PART])
        names = RELEASE.list_images(folder, PART, IMAGES, (".png",))
        matches = RELEASE.parse(folder / PART, names, NAME)
        RELEASE.check_count(folder / PART, len(names), IMAGES, self.check_counts)
        identities = np.array([int(match[1]) for match in matches], dtype=np.int64)
        cameras = np.array([(int(match[2]) - 1) // 2 for match in matches], dtype=np.int64)
        people, pictures = np.unique(identities, return_counts=True)
        if self.check_counts and (pictures != 4).any():
            odd = [f"{i:04}" for i in people[pictures != 4]]
            raise DataError(
                f"{folder / PART}: {len(odd)} people have not four pictures: {shown(odd)}",
                "Unpack the archive again.",
            )
        if len(people) <= self.test_identities:
            raise DataError(
                f"{folder / PART} has {len(people)} people; {self.test_identities} of them are to "
                "be tested on, and nobody is left to train on",
                "Lower dataset.test_identities.",
            )
        drawn = sorted(people.tolist(), key=lambda i: derive(self.split_seed, "cuhk01", i))
        tested = np.isin(identities, drawn[: self.test_identities])
        images = Files(folder, [f"{PART}/{name}" for name in names])
        whole = Split(images, identities, cameras)
        train, query, gallery = (
            whole.subset(np.flatnonzero(chosen))
            for chosen in (~tested, tested & (cameras == 0), tested & (cameras == 1))
        )
        return ReIDData("cuhk01", train, query, gallery, facts=self._facts())

    def _facts(self) -> Facts:
        """By arithmetic: everybody has two pictures in each of two cameras."""
        tested = self.test_identities
        return Facts(
            train=4 * (PEOPLE - tested),
            train_identities=PEOPLE - tested,
            query=2 * tested,
            query_identities=tested,
            gallery=2 * tested,
            junk=0,
            distractors=0,
            cameras=2,
            matches=4 * tested,
            fingerprint=FINGERPRINT if (tested, self.split_seed) == DEFAULTS else None,
        )
