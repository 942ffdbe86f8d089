"""DukeMTMC-reID (Zheng et al., ICCV 2017), for those who hold it: its authors withdrew it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.data.facts import Facts
from harness.data.layouts import Layout, market_layouts
from harness.data.releases import Release
from harness.data.subsets import SubsetRule
from harness.data.types import Dataset, ReIDData

FOLDERS = (
    "DukeMTMC-reID",
    "DukeMTMC-reID/DukeMTMC-reID",
    "dukemtmc-reid",
    "dukemtmc-reid/DukeMTMC-reID",
    "dukemtmcreid",
    "dukemtmcreid/DukeMTMC-reID",
    "dukemtmc/DukeMTMC-reID",
    ".",
)
#: part → (sub-folder, images in the official release)
PARTS = {
    "train": ("bounding_box_train", 16_522),
    "query": ("query", 2_228),
    "gallery": ("bounding_box_test", 17_661),
}
#: identity, camera, frame: 0001_c2_f0046182.jpg
NAME = re.compile(r"(\d{4})_c([1-8])_f\d+\.jpg")


class _Withdrawn(Release):
    @property
    def where(self) -> str:
        return (
            "It was withdrawn by its authors in 2019 and is never fetched. If you hold a copy, set "
            "HARNESS_DATA or data.root= to the folder that holds DukeMTMC-reID; else choose "
            "another data set."
        )


RELEASE = _Withdrawn("DukeMTMC-reID", "dukemtmcreid", FOLDERS, "0001_c2_f0046182.jpg")
#: of the paper; 408 identities of the gallery are seen by one camera only and are no query's
FACTS = Facts(
    train=16_522,
    train_identities=702,
    query=2_228,
    query_identities=702,
    gallery=17_661,
    junk=0,
    distractors=0,
    cameras=8,
)


class DukeMTMCReID(Dataset):
    """DukeMTMC-reID: 8 cameras, 702 identities for training, 702 for testing and 408 distractors.

    Images are in filename order. Cameras c1 … c8 are 0 … 7. Distractors have identities of their
    own, which no query has; there is no junk.

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

    def layouts(self) -> Sequence[Layout]:
        """The official archive's, and folders by person."""
        return market_layouts(RELEASE.title, FOLDERS[0], PARTS)

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete, or not what it should be."""
        folder = RELEASE.find(self.root, (part for part, _ in PARTS.values()))
        train, query, gallery = (
            RELEASE.market_part(folder, *PARTS[part], NAME, self.check_counts) for part in PARTS
        )
        if self.subset is None:
            return ReIDData("dukemtmcreid", train, query, gallery, facts=FACTS)
        return ReIDData("dukemtmcreid_subset", *self.subset.apply(train, query, gallery))
