"""MSMT17's layout, right and wrong: V1 and V2 are distinguished, and the lists are checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from harness.core.errors import ConfigError, DataError
from harness.core.options import check_options
from harness.data.types import ReIDData
from tests.datasets.fakes import msmt17_images, msmt17_lists, touch


@pytest.fixture
def msmt(dataset_module: Callable[[str], ModuleType]) -> ModuleType:
    return dataset_module("msmt17")


def fake(root: Path, version: str = "v1", folder: str | None = None) -> Path:
    place = root / (folder or f"MSMT17_{version.upper()}")
    msmt17_lists(place)
    return touch(place, msmt17_images(version))


def load(msmt: ModuleType, root: Path, **options: Any) -> ReIDData:
    return msmt.MSMT17(root, **{"check_counts": False, **options}).load()


@pytest.mark.parametrize("folder", ["MSMT17_V1", "msmt17/MSMT17_V1", "MSMT17", "."])
def test_the_lists_are_the_data_set(msmt: ModuleType, tmp_path: Path, folder: str) -> None:
    fake(tmp_path, folder=folder)
    data = load(msmt, tmp_path)
    assert data.name == "msmt17"
    assert [data.train.images.name(i) for i in range(3)] == [
        "train/0000/0000_045_12_0303morning_0006_2.jpg",
        "train/0001/0001_046_12_0303noon_0006_2_ex.jpg",
        "train/0000/0000_013_04_0114afternoon_0020_2.jpg",  # of list_val.txt
    ]
    assert data.train.identities.tolist() == [1, 2, 1]
    assert data.query.identities.tolist() == [1042], (
        "test identities differ from training identities"
    )
    assert data.gallery.identities.tolist() == [1042, 1043]
    assert data.train.cameras is not None and data.train.cameras.tolist() == [11, 11, 3]
    assert data.gallery.cameras is not None and data.gallery.cameras.tolist() == [14, 0]
    data.fingerprint()


def test_training_without_the_validation_list_has_a_name_of_its_own(
    msmt: ModuleType, tmp_path: Path
) -> None:
    fake(tmp_path)
    data = load(msmt, tmp_path, trainval=False)
    assert len(data.train.images) == 2
    assert data.name == "msmt17_train" and data.facts is None


def test_v2_has_a_name_of_its_own(msmt: ModuleType, tmp_path: Path) -> None:
    fake(tmp_path, "v1")
    fake(tmp_path, "v2")
    assert load(msmt, tmp_path).name == "msmt17"
    second = load(msmt, tmp_path, version="v2")
    assert second.name == "msmt17_v2"
    assert second.train.images.name(0).startswith("mask_train_v2/")
    with pytest.raises(ConfigError, match="version=v3"):
        check_options(msmt.MSMT17, {"version": "v3"}, "dataset")


@pytest.mark.parametrize(("there", "asked"), [("v2", "v1"), ("v1", "v2")])
@pytest.mark.parametrize("lists", [True, False])
def test_the_other_version_is_named(
    msmt: ModuleType, tmp_path: Path, there: str, asked: str, lists: bool
) -> None:
    """Even if the images of V2 are in a folder called MSMT17_V1, with the lists of V1."""
    place = fake(tmp_path, there, folder="MSMT17_V1")
    if not lists:
        for path in place.glob("list_*.txt"):
            path.unlink()
    with pytest.raises(DataError) as caught:
        load(msmt, tmp_path, version=asked)
    assert f"has the image folders of MSMT17 {there.upper()}" in caught.value.cause
    assert f"not those of MSMT17 {asked.upper()}" in caught.value.cause
    assert f"dataset.version={there}" in caught.value.hint
    assert "faces are blurred in V2" in caught.value.hint


def test_images_of_both_versions_with_one_set_of_lists(msmt: ModuleType, tmp_path: Path) -> None:
    fake(tmp_path, "v1")
    touch(tmp_path / "MSMT17_V1", msmt17_images("v2"))
    with pytest.raises(DataError, match=r"images of both versions \(train and mask_train_v2\)"):
        load(msmt, tmp_path)


def test_lists_of_another_version(msmt: ModuleType, tmp_path: Path) -> None:
    """The folders fit, but the lists name images that are not there."""
    place = fake(tmp_path)
    (place / msmt17_images("v1")[0]).rename(place / "train/0000/0000_045_12_0303morning_0006_9.jpg")
    with pytest.raises(
        DataError, match=r"1 of 3 images of list_train\.txt, list_val\.txt"
    ) as caught:
        load(msmt, tmp_path)
    assert "lists are of another version than the images" in caught.value.hint


@pytest.mark.parametrize(
    "missing", ["list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt"]
)
def test_a_missing_list(msmt: ModuleType, tmp_path: Path, missing: str) -> None:
    (fake(tmp_path) / missing).unlink()
    with pytest.raises(DataError, match=f"is incomplete: {missing} missing") as caught:
        load(msmt, tmp_path)
    assert "datasets/msmt17/README.md" in caught.value.hint


def test_nothing_there(msmt: ModuleType, tmp_path: Path) -> None:
    touch(tmp_path, ["test/mine.jpg"])  # any folder may hold a `test`
    with pytest.raises(DataError, match=f"MSMT17 V1 is not under {tmp_path}"):
        load(msmt, tmp_path)


def test_counts(msmt: ModuleType, tmp_path: Path) -> None:
    fake(tmp_path)
    with pytest.raises(DataError, match=r"list_train\.txt is incomplete: 2 of 30,248 images"):
        load(msmt, tmp_path, check_counts=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0000/0000_000_01_0303morning_0015_0.jpg", "is not an image of MSMT17 and its identity"),
        ("0000/me.jpg 0", "is not an image of MSMT17"),
        ("../../0000_000_01_0303morning_0015_0.jpg 0", "is not an image of MSMT17"),
        ("0000/0000_000_01_0303morning_0015_0.jpg 1", "identity 1 of .* is not valid"),
        ("3060/3060_000_01_0303morning_0015_0.jpg 3060", "identity 3060 of .* is not valid"),
        ("0000/0000_000_16_0303morning_0015_0.jpg 0", "is not valid"),
        ("0000/0000_008_15_0303morning_0019_2.jpg 0", "is listed already"),
    ],
)
def test_lines_that_are_wrong(msmt: ModuleType, tmp_path: Path, line: str, message: str) -> None:
    path = fake(tmp_path) / "list_gallery.txt"
    path.write_text(f"{path.read_text()}\n{line}\n")
    with pytest.raises(DataError, match=rf"list_gallery\.txt, line 4: .*{message}"):
        load(msmt, tmp_path)


def test_subset(msmt: ModuleType, tmp_path: Path) -> None:
    fake(tmp_path)
    data = load(msmt, tmp_path, subset={"train_identities": 1, "test_identities": 1})
    assert data.name == "msmt17_subset"
    assert set(data.gallery.identities) == set(data.query.identities) == {1042}
