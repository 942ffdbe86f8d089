"""What is publicly known of a data set, compared with what is at hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from harness.data.facts import differences, measure, valid_matches
from harness.data.image_files import ImageFiles
from harness.data.types import DatasetFacts, ReIDData, Split


def split(part: str, identities: Sequence[int], cameras: Sequence[int] | None) -> Split:
    files = ImageFiles(Path("nowhere"), [f"{part}/{i}.jpg" for i in range(len(identities))])
    return Split(files, np.array(identities), None if cameras is None else np.array(cameras))


def data(cameras: bool = True) -> ReIDData:
    def part(name: str, identities: Sequence[int], seen: Sequence[int]) -> Split:
        return split(name, identities, seen if cameras else None)

    return ReIDData(
        "made",
        part("train", [1, 1, 2], [0, 1, 5]),
        part("query", [3, 3, 4], [0, 1, 0]),
        part("gallery", [-1, 0, 0, 3, 3, 3, 4], [0, 0, 1, 0, 0, 2, 0]),
    )


def test_counts() -> None:
    assert measure(data(), "f") == DatasetFacts(
        train=3, train_identities=2, query=3, query_identities=2, gallery=6, junk=1, distractors=2,
        cameras=4, matches=4, fingerprint="f",
    )  # fmt: skip


def test_matches_are_of_another_camera_where_there_are_cameras() -> None:
    # 3 in camera 0 finds one image, 3 in camera 1 three, 4 in camera 0 none
    assert valid_matches(data().query, data().gallery) == 4
    assert valid_matches(data(False).query, data(False).gallery) == 7
    assert measure(data(False), "f").cameras == 0


def test_an_identity_0_that_is_queried_is_no_distractor() -> None:
    whole = data()
    query = split("query", [0], [1])
    changed = ReIDData("made", whole.train, query, whole.gallery)
    assert measure(changed, "f").distractors == 0


def test_differences_are_told_and_what_is_unknown_is_not_asked() -> None:
    found = measure(data(), "0123456789abcdef")
    assert differences(DatasetFacts(), found) == []
    assert differences(DatasetFacts(train=3, matches=4), found) == []
    known = DatasetFacts(train=12_936, junk=0, fingerprint="ffffffffffffffff")
    assert differences(known, found) == [
        "training images: 3, not 12,936",
        "junk boxes: 1, not 0",
        "fingerprint: 01234567, not ffffffff",
    ]
