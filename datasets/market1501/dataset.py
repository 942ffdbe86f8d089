"""Market-1501 (Zheng et al., ICCV 2015), as released in v15.09.15."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.data.facts import Facts
from harness.data.layouts import Layout, market_layouts
from harness.data.releases import Release, gallery_notes
from harness.data.subsets import SubsetRule
from harness.data.types import Dataset, ReIDData

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
RELEASE = Release("Market-1501", "market1501", FOLDERS, "0002_c1s1_000451_03.jpg")
#: counts of the paper and of the release's readme.txt; matches and fingerprint of the release
FACTS = Facts(
    train=12_936,
    train_identities=751,
    query=3_368,
    query_identities=750,
    gallery=15_913,
    junk=3_819,
    distractors=2_798,
    cameras=6,
    matches=49_649,
    fingerprint="d7f0d4030e06754066d462a8df3ebbd8",
)


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

    def layouts(self) -> Sequence[Layout]:
        """The official archive's, and folders by person."""
        return market_layouts(RELEASE.title, FOLDERS[0], PARTS)

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete, or not what it should be."""
        folder = RELEASE.find(self.root, (part for part, _ in PARTS.values()))
        train, query, gallery = (
            RELEASE.market_part(folder, *PARTS[part], NAME, self.check_counts) for part in PARTS
        )
        if self.subset is not None:
            train, query, gallery = self.subset.apply(train, query, gallery)
        whole = self.subset is None
        return ReIDData(
            "market1501" if whole else "market1501_subset",
            train,
            query,
            gallery,
            notes=gallery_notes(gallery),
            facts=FACTS if whole else None,
        )
