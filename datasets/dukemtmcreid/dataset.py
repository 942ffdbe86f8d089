"""DukeMTMC-reID (Zheng et al., ICCV 2017), withdrawn by its authors: for existing copies only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from harness.data.releases import MarketDataset, Release
from harness.data.types import DatasetFacts, ReIDData

RELEASE = Release(
    title="DukeMTMC-reID",
    page="dukemtmcreid",
    folders=(
        "DukeMTMC-reID", "DukeMTMC-reID/DukeMTMC-reID", "dukemtmc-reid",
        "dukemtmc-reid/DukeMTMC-reID", "dukemtmcreid", "dukemtmcreid/DukeMTMC-reID",
        "dukemtmc/DukeMTMC-reID", ".",
    ),
    example="0001_c2_f0046182.jpg",
    how_to_get="It was withdrawn by its authors in 2019 and is never fetched. If you have a copy, "
    "set HARNESS_DATA or data.root= to the folder that contains DukeMTMC-reID; otherwise choose "
    "another data set.",
)  # fmt: skip
#: part → (sub-folder, images in the official release)
PARTS = {
    "train": ("bounding_box_train", 16_522),
    "query": ("query", 2_228),
    "gallery": ("bounding_box_test", 17_661),
}
#: identity, camera, frame: 0001_c2_f0046182.jpg
NAME = re.compile(r"(\d{4})_c([1-8])_f\d+\.jpg")
#: of the paper; 408 gallery identities are seen by one camera only and have no query
FACTS = DatasetFacts(
    train=16_522, train_identities=702, query=2_228, query_identities=702, gallery=17_661, junk=0,
    distractors=0, cameras=8,
)  # fmt: skip


class DukeMTMCReID(MarketDataset):
    """DukeMTMC-reID: 8 cameras, 702 training identities, 702 test identities, 408 distractors.

    Images are in filename order. Cameras c1 … c8 are 0 … 7. Distractors have their own identities,
    which no query has; there is no junk.
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
        return self.make_data("dukemtmcreid", splits)

    def release_facts(self) -> DatasetFacts:
        return FACTS
