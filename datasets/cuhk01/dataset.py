"""CUHK01 (Li, Zhao and Wang, ACCV 2012): the `campus` folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from harness.core.errors import DataError
from harness.core.seeds import derive
from harness.data.layouts import Layout, part
from harness.data.releases import Release, ReleasedDataset, make_split, shown
from harness.data.types import DatasetFacts, ReIDData

RELEASE = Release(
    title="CUHK01",
    page="cuhk01",
    folders=("CUHK01", "CUHK01/CUHK01", "cuhk01", "cuhk01/CUHK01", "."),
    example="0001001.png",
)
PART = "campus"
IDENTITIES, IMAGES = 971, 3_884
#: (test_identities, split_seed) of the published fingerprint
DEFAULTS = (486, 0)
FINGERPRINT = "2476d36fa31ff2eb173f54dae365c451"
#: identity, image: 0001001.png; images 1 and 2 are from camera A, 3 and 4 from camera B
NAME = re.compile(r"(\d{4})00([1-4])\.png")


class CUHK01(ReleasedDataset):
    """CUHK01: 971 identities, two cameras, two images of each identity per camera.

    There is no official split: a hash of (split_seed, identity) selects the test identities, all
    others are for training. Queries are the test images of camera A (0), the gallery those of
    camera B (1).

    Args:
        check_counts: refuse anything but 971 identities with four images each.
        test_identities: number of test identities; papers use 486 or 100.
        split_seed: selects other test identities; papers report the mean of ten splits.
    """

    def __init__(
        self,
        root: str | Path,
        check_counts: bool = True,
        test_identities: Annotated[
            int, Field(ge=1, lt=IDENTITIES, description="number of test identities")
        ] = 486,
        split_seed: Annotated[int, Field(ge=0, description="selects other test identities")] = 0,
    ) -> None:
        super().__init__(RELEASE, root, check_counts)
        self.test_identities, self.split_seed = test_identities, split_seed

    def layouts(self) -> Sequence[Layout]:
        """A folder `campus`, anywhere."""
        return [Layout(RELEASE.title, RELEASE.folders[0], (part(PART, IMAGES, ".png"),))]

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete or not as expected."""
        folder = RELEASE.find(self.root, [PART])
        names = RELEASE.list_images(folder, PART, IMAGES, (".png",))
        matches = RELEASE.parse(folder / PART, names, NAME)
        RELEASE.check_count(folder / PART, len(names), IMAGES, self.check_counts)
        numbers = [(int(match[1]), (int(match[2]) - 1) // 2) for match in matches]
        whole = make_split(folder, [f"{PART}/{name}" for name in names], numbers)
        identities, images = np.unique(whole.identities, return_counts=True)
        if self.check_counts and (images != 4).any():
            odd = [f"{i:04}" for i in identities[images != 4]]
            raise DataError(
                f"{folder / PART}: {len(odd)} identities do not have four images: {shown(odd)}",
                "Unpack the archive again.",
            )
        if len(identities) <= self.test_identities:
            raise DataError(
                f"{folder / PART} has {len(identities)} identities; with {self.test_identities} "
                "for testing, none are left for training",
                "Lower dataset.test_identities.",
            )
        ranked = sorted(identities.tolist(), key=lambda i: derive(self.split_seed, "cuhk01", i))
        tested = np.isin(whole.identities, ranked[: self.test_identities])
        assert whole.cameras is not None
        train, query, gallery = (
            whole.subset(np.flatnonzero(chosen))
            for chosen in (~tested, tested & (whole.cameras == 0), tested & (whole.cameras == 1))
        )
        return self.make_data("cuhk01", (train, query, gallery))

    def release_facts(self) -> DatasetFacts:
        """Follows from two images of each identity in each of two cameras."""
        tested = self.test_identities
        return DatasetFacts(
            train=4 * (IDENTITIES - tested), train_identities=IDENTITIES - tested,
            query=2 * tested, query_identities=tested, gallery=2 * tested, junk=0, distractors=0,
            cameras=2, matches=4 * tested,
            fingerprint=FINGERPRINT if (tested, self.split_seed) == DEFAULTS else None,
        )  # fmt: skip
