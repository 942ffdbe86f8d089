"""Market-1501's layout, right and wrong, on fakes; and the real one where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
from omegaconf import OmegaConf

from harness.core.errors import ConfigError, DataError
from harness.data.subsets import SubsetRule
from harness.data.types import ReIDData

TRAIN = ["0002_c1s1_000451_03.jpg", "0002_c6s1_000452_01.jpg", "0007_c3s3_000001_10.jpg"]
QUERY = ["0001_c1s1_001051_00.jpg", "0003_c5s2_001051_00.jpg.jpg"]
GALLERY = [
    "-1_c3s1_000000_00.jpg",
    "0000_c2s1_000001_01.jpg",
    "0001_c2s1_000301_02.jpg",
    "0003_c1s1_000301_02.jpg",
]


@pytest.fixture
def market(dataset_module: Callable[[str], ModuleType]) -> ModuleType:
    return dataset_module("market1501")


def fake(folder: Path) -> Path:
    """The layout with empty files: `load` decodes nothing."""
    for part, names in (
        ("bounding_box_train", TRAIN),
        ("query", QUERY),
        ("bounding_box_test", GALLERY),
    ):
        (folder / part).mkdir(parents=True)
        for name in [*names, "Thumbs.db", f"._{names[0]}"]:
            (folder / part / name).touch()
    return folder


def load(market: ModuleType, root: Path, **options: Any) -> ReIDData:
    return market.Market1501(root=root, **{"check_counts": False, **options}).load()


@pytest.mark.parametrize("name", ["Market-1501-v15.09.15", "market1501", "Market-1501", "."])
def test_names_are_parsed(market: ModuleType, tmp_path: Path, name: str) -> None:
    fake(tmp_path / name)
    data = load(market, tmp_path)
    assert [data.train.images.name(i) for i in range(3)] == [
        f"bounding_box_train/{name}" for name in TRAIN
    ]
    assert data.train.identities.tolist() == [2, 2, 7]
    assert data.query.identities.tolist() == [1, 3]
    assert data.gallery.identities.tolist() == [-1, 0, 1, 3]
    for split, cameras in ((data.train, [0, 5, 2]), (data.query, [0, 4])):
        assert split.cameras is not None and split.cameras.tolist() == cameras
    assert dict(data.notes) == {"junk": 1, "distractors": 1}
    assert data.train.identities.dtype == np.int64


def test_missing(market: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(market, tmp_path)
    assert str(tmp_path) in caught.value.cause and "Market-1501-v15.09.15" in caught.value.cause
    assert "HARNESS_DATA" in caught.value.hint and "data.root=" in caught.value.hint


def test_missing_part(market: ModuleType, tmp_path: Path) -> None:
    fake(tmp_path)
    for path in (tmp_path / "query").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="query is incomplete: 0 of 3,368 images"):
        load(market, tmp_path)
    (tmp_path / "query").rmdir()
    with pytest.raises(DataError, match="query is missing"):
        load(market, tmp_path)


def test_counts(market: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(tmp_path)
    with pytest.raises(DataError, match="bounding_box_train is incomplete: 3 of 12,936 images"):
        load(market, tmp_path, check_counts=True)
    parts = {"train": ("bounding_box_train", 3), "query": ("query", 2)}
    monkeypatch.setattr(market, "PARTS", {**parts, "gallery": ("bounding_box_test", 3)})
    with pytest.raises(DataError, match="has 4 images, 1 more than the official 3"):
        load(market, tmp_path, check_counts=True)
    monkeypatch.setattr(market, "PARTS", {**parts, "gallery": ("bounding_box_test", 4)})
    load(market, tmp_path, check_counts=True)


@pytest.mark.parametrize("name", ["me.jpg", "0002_c7s1_000451_03.jpg", "2_c1s1_000451_03.jpg"])
def test_names_that_do_not_parse(market: ModuleType, tmp_path: Path, name: str) -> None:
    fake(tmp_path)
    (tmp_path / "bounding_box_test" / name).touch()
    with pytest.raises(DataError, match=r"1 of 5 file names in .*bounding_box_test") as caught:
        load(market, tmp_path)
    assert name in caught.value.cause


def test_subset(market: ModuleType, tmp_path: Path) -> None:
    fake(tmp_path)
    data = load(market, tmp_path, subset={"train_identities": 1, "test_identities": 1})
    assert len(np.unique(data.train.identities)) == len(np.unique(data.query.identities)) == 1
    assert set(data.gallery.identities) == set(data.query.identities)
    assert data.fingerprint() != load(market, tmp_path).fingerprint()
    options = {"train_identities": 2, "test_identities": 1, "distractors": True}
    assert load(market, tmp_path, subset=options).gallery.identities[:2].tolist() == [-1, 0]
    with pytest.raises(DataError, match="needs 3 train identities; there are 2"):
        load(market, tmp_path, subset={"train_identities": 3, "test_identities": 1})


def test_subsets_are_nested_and_seeded() -> None:
    identities = np.repeat(np.arange(-1, 750), 3)
    few, many, other = (
        set(SubsetRule(1, 1, seed).choose(identities, "train", count))
        for seed, count in ((0, 100), (0, 200), (1, 100))
    )
    assert len(few) == 100 and few < many and few != other and not few & {-1, 0}


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ({"train_identity": 1}, "Did you mean 'train_identities'"),
        ({"train_identities": 5}, "leaves no identities"),
        ({"train_identities": 5, "test_identities": 0}, "leaves no identities"),
    ],
)
def test_wrong_subsets(market: ModuleType, tmp_path: Path, subset: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        market.Market1501(tmp_path, subset=subset)


def test_config_fits_the_class(market: ModuleType, tmp_path: Path) -> None:
    config = OmegaConf.load(Path(str(market.__file__)).with_name("config.yaml"))
    options = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    assert options.pop("_target_") == f"{market.__name__}.Market1501"
    assert (options.pop("name"), options.pop("on_bad_image")) == ("market1501", "error")
    market.Market1501(**{**options, "root": tmp_path})


@pytest.mark.skipif("HARNESS_DATA" not in os.environ, reason="needs HARNESS_DATA")
def test_the_real_one(market: ModuleType) -> None:
    root = Path(os.environ["HARNESS_DATA"])
    if not any((root / name / "query").is_dir() for name in market.FOLDERS):
        pytest.skip("HARNESS_DATA has no Market-1501")
    data = market.Market1501(root).load()
    assert [len(split.images) for split in (data.train, data.query, data.gallery)] == [
        12_936,
        3_368,
        19_732,
    ]
    assert (data.gallery.identities >= 0).sum() == 15_913
    assert dict(data.notes) == {"junk": 3_819, "distractors": 2_798}
    assert len(np.unique(data.train.identities)) == 751
    assert len(np.unique(data.query.identities)) == 750
    for split in (data.train, data.query, data.gallery):
        assert split.cameras is not None and np.unique(split.cameras).tolist() == list(range(6))
    assert data.query.images.read(0).size == (64, 128)
