"""Images of one's own: what a CSV may say, and what is said about one that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from harness.core.errors import DataError
from harness.data.types import ReIDData
from tests.conftest import Command
from tests.datasets.fakes import paint
from tests.tiny import tiny

GOOD = """path,id,camera,split
t/b.jpg,,2,train
t/a.jpg,5,10,train

q/a.jpg,5,2,query
g/a.jpg,5,10,gallery
g/junk.jpg,-1,10,gallery
g/other.jpg,0,2,gallery
"""

Load = Callable[..., ReIDData]


@pytest.fixture
def load(dataset_module: Callable[[str], ModuleType], tmp_path: Path) -> Load:
    """Write a CSV and the images of GOOD (empty files: nothing is decoded), load the data set."""
    folder = dataset_module("folder").Folder

    def load(text: str, images: str | None = None, encoding: str = "utf-8") -> ReIDData:
        for name in ("t/a", "t/b", "q/a", "g/a", "g/junk", "g/other"):
            path = tmp_path / (images or "") / f"{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / "list.csv").write_text(text, encoding=encoding)
        return folder(root=tmp_path, csv="list.csv", images=images).load()

    return load


def test_absolute_paths_are_refused(load: Load, tmp_path: Path) -> None:
    """In records and image caches, they would be useless on another machine."""
    with pytest.raises(DataError, match=r"(?s)is an absolute path .* relative to the CSV"):
        load(GOOD.replace("t/a.jpg", f"{tmp_path}/t/a.jpg"))


@pytest.mark.parametrize("images", [None, "elsewhere/images"])
def test_good(load: Load, images: str | None) -> None:
    data = load(GOOD, images)
    assert [data.train.images.name(i) for i in range(2)] == ["t/b.jpg", "t/a.jpg"]
    assert data.train.identities.tolist() == [-1, 5]
    assert data.query.identities.tolist() == [5]
    assert data.gallery.identities.tolist() == [5, -1, 0]
    assert data.train.cameras is not None and data.gallery.cameras is not None
    assert data.train.cameras.tolist() == [0, 1]  # by number: 2 before 10
    assert data.gallery.cameras.tolist() == [1, 1, 0]
    data.fingerprint()


def test_columns_may_be_in_any_order_and_others_are_ignored(load: Load) -> None:
    text = "Split , note,PATH,id\ntrain,x,t/a.jpg,\nquery,,q/a.jpg,1\ngallery,,g/a.jpg,1\n"
    for encoding in ("utf-8", "utf-8-sig"):
        data = load(text, encoding=encoding)
        assert data.train.cameras is None and data.query.cameras is None
        assert data.query.identities.tolist() == [1]


def test_names_are_numbered(load: Load) -> None:
    text = GOOD.replace(",5,", ",zoë,").replace("g/other.jpg,0", "g/other.jpg,ann")
    data = load(text.replace(",10,", ",north,"))
    assert data.gallery.identities.tolist() == [2, -1, 1]
    assert data.train.identities.tolist() == [-1, 2]
    assert data.gallery.cameras is not None and data.gallery.cameras.tolist() == [1, 1, 0]


def test_training_alone_and_testing_alone(load: Load) -> None:
    only = load("path,split\nt/a.jpg,train\nt/b.jpg,train\n")
    assert len(only.train.images) == 2 and not len(only.query.images)
    tested = load("path,id,split\nq/a.jpg,1,query\ng/a.jpg,1,gallery\n")
    assert not len(tested.train.images) and len(tested.gallery.images) == 1
    only.fingerprint()


def test_names_by_case_and_unicode_names(load: Load, tmp_path: Path) -> None:
    for name in ("T/B.jpg", "t/ü 人.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    data = load(GOOD + "t/ü 人.jpg,,2,train\n")
    assert data.train.images.name(2) == "t/ü 人.jpg"
    with pytest.raises(DataError, match=r"line 9: T/B.jpg differs from t/b.jpg \(line 2\) by case"):
        load(GOOD + "T/B.jpg,,2,train\n")


def test_training_identities_are_not_needed(load: Load) -> None:
    assert load(GOOD.replace("t/a.jpg,5", "t/a.jpg,")).train.identities.tolist() == [-1, -1]


def test_floats_are_the_numbers_that_they_stand_for(load: Load) -> None:
    """pandas writes ids as floats as soon as one is missing."""
    floats = GOOD.replace(",5,", ",5.0,").replace(",-1,", ",-1.0,").replace(",0,", ",0.0,")
    floats = floats.replace(",10,", ",10.0,").replace("t/b.jpg,,", "t/b.jpg,nan,")
    assert load(floats).fingerprint() == load(GOOD).fingerprint()
    assert load(floats).notes == {"junk": 1, "distractors": 1, "training_images_without_id": 1}


def test_other_floats_are_names(load: Load) -> None:
    """Junk and distractors stay what they are among names."""
    data = load(GOOD.replace(",5,", ",5.5,").replace(",-1,", ",-1.0,").replace(",0,", ",00.0,"))
    assert data.query.identities.tolist() == [1]
    assert data.gallery.identities.tolist() == [1, -1, 0]


def test_an_unlabelled_data_set_has_notes_of_what_is_there_only(load: Load) -> None:
    assert load("path,id,split\nt/a.jpg,1,train\nt/b.jpg,2,train\n").notes == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("path,", "file,", r"line 1: column 'path' is missing among file, id, camera, split"),
        (",camera,", ",camra,", r"line 1: unknown column 'camra'\n.*mean 'camera'"),
        (",id,", ",path,", r"line 1: column 'path' occurs twice"),
        (",query", ",test", r"line 5: split 'test' is none of train, query, gallery"),
        (",train", ",", r"lines 2, 3: split ''"),
        ("q/a.jpg", "", r"line 5: no path"),
        ("g/a.jpg", "t/a.jpg", r"line 6: t/a.jpg is listed already \(line 3\)"),
        ("q/a.jpg,5", "q/a.jpg,", r"line 5: no id"),
        ("q/a.jpg,5", "q/a.jpg,-1", r"line 5: a query cannot be junk"),
        ("q/a.jpg,5", "q/a.jpg,-1.0", r"line 5: a query cannot be junk"),
        ("q/a.jpg,5", "q/a.jpg,0", r"line 5: a query cannot be a distractor \(id 0\)"),
        ("q/a.jpg,5", "q/a.jpg,0.0", r"line 5: a query cannot be a distractor"),
        ("q/a.jpg,5", "q/a.jpg,nan", r"line 5: no id"),
        ("g/a.jpg,5", "g/a.jpg,-3", r"line 6: ids are negative"),
        ("q/a.jpg,5,2", "q/a.jpg,5,nan", r"line 5: no camera"),
        ("q/a.jpg,5,2", "q/a.jpg,5,", r"line 5: no camera"),
        ("g/a.jpg", "g/z.jpg", r"1 of 6 images are not in .*: g/z.jpg \(line 6 of"),
        ("q/a.jpg,5,2,query\n", "", r"lists no query images"),
        ("path,id,camera,split", "path;id;camera;split", r"separated by commas"),
        (GOOD, "", r"column 'path' is missing"),
        (GOOD, "path,split\n", r"lists no train images"),
    ],
)
def test_what_is_wrong_is_named(load: Load, old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(DataError, match=message):
        load(GOOD.replace(old, new))


def test_no_file(load: Load, dataset_module: Callable[[str], ModuleType], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*nothing\.csv"):
        dataset_module("folder").Folder(tmp_path, "nothing.csv").load()
    with pytest.raises(DataError, match="UTF-8"):
        load(GOOD.replace(",5,", ",zoë,"), encoding="latin-1")


def test_a_name_of_its_own_is_that_of_its_rows(command: Command, tmp_path: Path) -> None:
    """And finished runs find their loader again."""
    paint(tmp_path / "data", [line.split(",")[0] for line in GOOD.split()[1:]])
    (tmp_path / "data/list.csv").write_text(GOOD)
    changes = [change for change in tiny(tmp_path) if not change.startswith("dataset")]
    named = ["dataset=folder", "dataset.csv=list.csv", "dataset.name=shop"]
    answer = command("run", "method=direct_transfer", *named, *changes)
    assert answer.status == 0, answer.err
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("direct_transfer-shop-s0")
    record = json.loads((run / "record.json").read_text())
    assert record["experiment"]["dataset"] == record["dataset"]["name"] == "shop"
    store = ("--store", str(tmp_path / "runs"))
    answer = command("eval", run.name, *store, "--data-root", str(tmp_path / "data"))
    assert answer.status == 0, answer.err
    (run / "record.json").unlink()
    answer = command("rerun", run.name, *store, f"data.root={tmp_path}/data")
    assert answer.status == 0, answer.err
    again = json.loads((run / "record.json").read_text())
    assert again["metrics"] == record["metrics"] and again["settings"] == record["settings"]
    table = command("table", *store)
    assert "shop" in table.out and "dataset." not in table.out
