"""Market-1501 (Zheng et al., ICCV 2015), release v15.09.15."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from harness.data.releases import MarketDataset, Release, gallery_notes
from harness.data.types import DatasetFacts, ReIDData

RELEASE = Release(
    title="Market-1501",
    page="market1501",
    folders=(
        "Market-1501-v15.09.15", "Market-1501-v15.09.15/Market-1501-v15.09.15", "Market-1501",
        "market-1501", "Market1501", "market1501", "market1501/Market-1501-v15.09.15", ".",
    ),
    example="0002_c1s1_000451_03.jpg",
)  # fmt: skip
#: part → (sub-folder, images in the official release)
PARTS = {
    "train": ("bounding_box_train", 12_936),
    "query": ("query", 3_368),
    "gallery": ("bounding_box_test", 19_732),
}
#: identity, camera, sequence, frame, box: 0002_c1s1_000451_03.jpg, -1_c3s1_000000_00.jpg;
#: six official queries end in .jpg.jpg
NAME = re.compile(r"(-1|\d{4})_c([1-6])s\d_\d{6}_\d{2}\.jpg(\.jpg)?")
#: counts of the paper and the release's readme.txt; matches and fingerprint of the release
FACTS = DatasetFacts(
    train=12_936, train_identities=751, query=3_368, query_identities=750, gallery=15_913,
    junk=3_819, distractors=2_798, cameras=6, matches=49_649,
    fingerprint="d7f0d4030e06754066d462a8df3ebbd8",
)  # fmt: skip


class Market1501(MarketDataset):
    """Market-1501: 6 cameras, 751 training identities, 750 test identities.

    Images are in filename order. Cameras c1 … c6 are 0 … 5. The gallery has all 19,732 images:
    3,819 junk boxes with identity -1, which evaluation drops (15,913 remain), and 2,798 distractors
    with identity 0.
    """

    def __init__(
        self,
        root: str | Path,
        check_counts: bool = True,
        subset: Mapping[str, int | bool] | None = None,
    ) -> None:
        super().__init__(RELEASE, PARTS, NAME, root, check_counts, subset)

    def load(self) -> ReIDData:
        """Raises DataError if the release is missing, incomplete or not as expected."""
        _, splits = self.find_splits()
        data = self.make_data("market1501", splits)
        return replace(data, notes=gallery_notes(data.gallery))

    def release_facts(self) -> DatasetFacts:
        return FACTS
