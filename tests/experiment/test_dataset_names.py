"""What a data set is called in records, and which plug-in loads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.core.plugins import dataset_name
from harness.data.image_files import ImageFiles
from harness.data.types import ReIDData, Split
from harness.experiment.joint_datasets import plugin_names
from harness.experiment.stages import named

FOLDER = "harness_plugins.datasets.folder.dataset.Folder"


def data(name: str, *parts: str) -> ReIDData:
    empty = Split(ImageFiles(Path(), []), np.empty(0, dtype=np.int64))
    return ReIDData(name, empty, empty, empty, parts=tuple(data(part) for part in parts))


@pytest.mark.parametrize(
    ("loaded", "given", "expected"),
    [
        (data("folder"), "folder", "folder"),
        (data("folder"), "shop", "shop"),
        (data("market1501"), "market", "market"),
        (data("market1501_subset"), "market1501", "market1501_subset"),
        (data("cuhk03_labelled+folder", "cuhk03_labelled", "folder"), "cuhk03+folder",
         "cuhk03_labelled+folder"),
        (data("cuhk03_labelled+folder", "cuhk03_labelled", "folder"), "both", "both"),
    ],
)  # fmt: skip
def test_names_in_records(loaded: ReIDData, given: str, expected: str) -> None:
    assert named(loaded, given).name == expected


def test_the_plug_in_of_a_renamed_data_set() -> None:
    known = ("folder", "market1501")
    assert dataset_name("folder", FOLDER, known) == dataset_name("shop", FOLDER, known) == "folder"
    assert dataset_name("market1501", FOLDER, known) == "market1501", "with another's loader"
    assert dataset_name("mine", "package.Loader", known) == "mine"
    sets = {"folder": {"_target_": FOLDER}, "folder_2": {"_target_": FOLDER}}
    for name in ("folder+folder", "both"):
        assert plugin_names({"name": name, "sets": sets}) == ["folder", "folder"]
