"""`harness prepare dataset=folder source=DIR`: proposed, confirmed, written, ready."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import defaultdict
from pathlib import Path

import pytest

from harness.data.prepare.own_images import propose
from tests.conftest import Answer, Command
from tests.data.prepare.test_naming import grid
from tests.datasets.fakes import paint, touch

NAMES = grid("{p:04}_c{c}s1_{i:06}_01.jpg", identities=8, cameras=3)


def prepare(command: Command, *more: str) -> Answer:
    small = ("images.height=32", "images.width=16", "data.root=data")
    return command("prepare", "dataset=folder", *small, *more)


def rows(folder: Path, **options: str) -> dict[str, list[tuple[str, str]]]:
    """split → (id, camera) of each proposed image."""
    found = defaultdict(list)
    for row in propose(folder, options).rows:
        found[row.split].append((row.id, row.camera))
    return found


# ------------------------------------------------------------------------------------- the proposal


def test_split_by_identity(tmp_path: Path) -> None:
    touch(tmp_path, NAMES)
    found = rows(tmp_path)
    trained, tested = ({i for i, _ in found[part]} for part in ("train", "gallery"))
    assert len(trained) == len(tested) == 4 and not trained & tested
    assert sorted(found["query"]) == sorted({(i, c) for i in tested for c in "123"})
    assert len(found["query"]) + len(found["gallery"]) == 24
    assert rows(tmp_path) == found, "the same draw"
    assert rows(tmp_path, split_seed="1") != found
    few = rows(tmp_path, test_share="0.25")
    assert len({i for i, _ in few["gallery"]}) == 2 and {i for i, _ in few["query"]} <= tested
    assert set(rows(tmp_path, test_share="0")) == {"train"}
    none = propose(tmp_path, {"test_share": "0.05"})
    assert {row.split for row in none.rows} == {"train"}
    assert "No test images (test_share=0.05 of 8 identities)" in none.notes[0]


def test_every_query_has_an_answer(tmp_path: Path) -> None:
    """One image in each of two cameras: only one of them can ask."""
    touch(tmp_path, grid("{p:04}_c{c}_{i}.jpg", identities=6, cameras=2, images=1))
    touch(tmp_path, ["0007_c1_0.jpg", "0007_c1_1.jpg"])  # of one camera: for training
    found = rows(tmp_path, test_share="0.9")
    assert len(found["query"]) == len(found["gallery"]) == 6
    assert {("0007", "1")} == set(found["train"])
    seen = defaultdict(set)
    for identity, camera in found["gallery"]:
        seen[identity].add(camera)
    assert all(seen[identity] - {camera} for identity, camera in found["query"])


def test_without_cameras(tmp_path: Path) -> None:
    touch(tmp_path, grid("{p}/{c}{i}.jpg"))
    found = rows(tmp_path)
    assert len(found["query"]) == 2 and len(found["gallery"]) == 6
    assert {camera for part in found.values() for _, camera in part} == {""}


def test_without_identities(tmp_path: Path) -> None:
    touch(tmp_path, grid("IMG{p}{c}{i}.jpg"))
    proposal = propose(tmp_path, {})
    assert {row.split for row in proposal.rows} == {"train"}
    assert "evaluation is off" in proposal.notes[0]


def test_no_identity_is_seen_twice(tmp_path: Path) -> None:
    touch(tmp_path, grid("{p:04}_c{p}_{i}.jpg", identities=4, cameras=1))
    proposal = propose(tmp_path, {})
    assert {row.split for row in proposal.rows} == {"train"}
    assert "no identity is seen twice by different cameras" in proposal.notes[0]


def test_folders_that_indicate_splits(tmp_path: Path) -> None:
    touch(tmp_path, ["bounding_box_test/-1_c1_0.jpg", "query/-1_c1_0.jpg"])
    for part in ("bounding_box_train", "query", "bounding_box_test"):
        touch(tmp_path, grid(part + "/{p:04}_c{c}_{i}.jpg"))
    found = rows(tmp_path)
    assert {part: len(each) for part, each in found.items()} == {
        "train": 16, "query": 16, "gallery": 17,
    }  # fmt: skip
    assert ("-1", "1") in found["gallery"] and ("-1", "1") not in found["query"]


def test_folders_of_training_and_testing_alone(tmp_path: Path) -> None:
    touch(tmp_path, grid("train/{p:04}_c{c}_{i}.jpg") + grid("test/1{p:03}_c{c}_{i}.jpg"))
    found = rows(tmp_path)
    assert {i[0] for i, _ in found["train"]} == {"0"}
    assert len(found["query"]) == 8 and len(found["gallery"]) == 8


def test_one_camera_counts_as_none(tmp_path: Path) -> None:
    """Otherwise no query had a match: a match is an image from another camera."""
    touch(tmp_path, grid("{p:04}_c1_{i}.jpg", cameras=1, images=3))
    proposal = propose(tmp_path, {})
    assert {row.camera for row in proposal.rows} == {""}
    assert {row.split for row in proposal.rows} == {"train", "query", "gallery"}
    assert "All names have camera 1. One camera counts as none" in proposal.notes[0]
    assert "pattern=" in proposal.notes[0]


def test_a_camera_in_some_names_only(tmp_path: Path) -> None:
    touch(tmp_path, grid("{p:04}_cam{c}_{i}.jpg") + grid("{p:04}_x_{i}.jpg", cameras=1))
    proposal = propose(tmp_path, {"pattern": r"(?P<id>\d+)_(?:cam(?P<camera>\d))?"})
    assert {row.camera for row in proposal.rows} == {""}
    assert "8 of 24 names have no camera: cameras are left out." in proposal.notes


def test_test_folders_in_which_nobody_is_seen_twice(tmp_path: Path) -> None:
    touch(tmp_path, grid("train/{p:04}_c{c}_{i}.jpg"))
    touch(tmp_path, grid("test/1{p:03}_c{p}_{i}.jpg", cameras=1))
    proposal = propose(tmp_path, {})
    assert len(proposal.rows) == 16 and {row.split for row in proposal.rows} == {"train"}
    assert "The 8 images in test folders are LEFT OUT (no identity is seen" in proposal.notes[0]


def test_people_that_are_numbered_from_zero(tmp_path: Path) -> None:
    """Identity 0 marks distractors, which no query can be."""
    names = [name.replace("p1/", "p0/") for name in grid("p{p}/cam{c}/{i}.jpg")]
    touch(tmp_path, [f"{part}/{name[1:]}" for part in ("query", "gallery") for name in names])
    proposal = propose(tmp_path, {})
    assert {row.id for row in proposal.rows} == {"person 0", "2", "3", "4"}
    assert "Identity 0 is written as 'person 0'" in proposal.notes[1]
    alone = tmp_path / "alone"
    touch(alone, [f"test/{name[1:]}" for name in names])
    assert {row.id for row in propose(alone, {}).rows if row.split == "query"} == {"2", "3", "4"}


def test_whatever_lies_there_is_used_or_named(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    touch(folder, grid("{p:04}_c{c}_{i}.tif", identities=2) + grid("1{p:03}_c{c}_{i}.JPEG"))
    touch(folder, ["notes.txt", "clip.mp4", ".hidden.jpg", ".git/0001_c1_0.jpg"])
    touch(tmp_path / "elsewhere", grid("2{p:03}_c{c}_{i}.jpg"))
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "twice").symlink_to(folder / "linked")
    (folder / "up").symlink_to(tmp_path)
    (folder / "self").symlink_to(folder)
    (tmp_path / "elsewhere/back").symlink_to(folder)
    (folder / "gone.jpg").symlink_to(tmp_path / "gone.jpg")
    (folder / "circle").symlink_to("circle")
    (folder / "3001_c1_0.jpg").symlink_to(folder / "1001_c1_0.JPEG")
    proposal = propose(folder, {})
    assert len(proposal.rows) == 8 + 16 + 16 + 1
    assert sum(row.path.startswith("linked/") for row in proposal.rows) == 16
    said = {name.split(" (")[0]: name for name in proposal.not_used}
    assert said.keys() == {
        "notes.txt", "clip.mp4", ".hidden.jpg", ".git/", "twice/", "up/", "self/", "linked/back/",
        "gone.jpg", "circle",
    }  # fmt: skip
    assert "listed already" in said["twice/"] and "broken link" in said["gone.jpg"]


def test_names_that_are_not_utf_8(tmp_path: Path) -> None:
    touch(tmp_path, NAMES)
    (tmp_path / os.fsdecode(b"\xff.jpg")).touch()
    proposal = propose(tmp_path, {})
    assert len(proposal.rows) == 48 and proposal.text.encode()
    assert "not UTF-8" in proposal.not_used[0]


# ------------------------------------------------------------------------------------- the command


def test_files_that_are_not_used_are_counted(command: Command, tmp_path: Path) -> None:
    touch(tmp_path / "own", [*NAMES, "notes.txt", ".DS_Store"])
    answer = prepare(command, "source=own")
    assert "NOT USED: 2 others: notes.txt, .DS_Store (hidden)" in answer.out
    touch(tmp_path / "videos", ["a.mp4"])
    answer = prepare(command, "source=videos")
    assert "contains no images" in answer.err and "there: a.mp4" in answer.err


@pytest.mark.parametrize("pattern", ["{p:04}_c1_{i}.jpg", "{p:04}_c1s1_{i:06}_01.jpg"])
def test_one_camera_from_end_to_end(command: Command, tmp_path: Path, pattern: str) -> None:
    for part, images in (("query", 1), ("gallery", 2)):
        names = grid(f"{part}/{pattern}", cameras=1, images=images)
        paint(tmp_path / "own", [name.replace("_0", f"_{part[0] == 'q':d}0") for name in names])
    answer = prepare(command, "source=own", "--yes")
    assert answer.status == 0, answer.err
    assert "One camera counts as none" in answer.out and "no cameras" not in answer.out
    assert "cameras: unknown" in answer.out


def test_a_csv_that_would_be_refused_is_not_left_behind(command: Command, tmp_path: Path) -> None:
    """Each query's images are from its own camera, or nobody is in both folders."""
    own = grid("{p:04}_c{p}_{i}.jpg", cameras=1)
    others = grid("9{p:03}_c{c}_{i}.jpg")
    for gallery in (own, others):
        folder = tmp_path / f"own{len(gallery)}"
        paint(folder, [f"query/{name}" for name in own] + [f"gallery/{name}" for name in gallery])
        answer = prepare(command, f"source={folder}", "--yes")
        assert answer.status == 2
        assert "No query of folder has a correct gallery image" in answer.err
        assert "images.csv was removed again" in answer.err and "pattern=" in answer.err
        assert not list(tmp_path.rglob("*.csv"))


def test_no_terminal_to_confirm(command: Command, tmp_path: Path) -> None:
    paint(tmp_path / "own", [*NAMES, "misc.jpg"])
    touch(tmp_path / "own", [".hidden.jpg", "notes.txt", "__MACOSX/0001_c1_0.jpg"])
    answer = prepare(command, "source=own")
    assert answer.status == 2
    assert "48 images" in answer.out and "0002_c1s1_000451_03.jpg: person 0002" in answer.out
    shown = [line for line in answer.out.splitlines() if "s1_0000" in line]
    assert len(shown) == 10 and {line.split()[3] for line in shown} == {"train", "query", "gallery"}
    assert "LEFT OUT: 1 images whose names do not match: misc.jpg" in answer.out
    assert "There is no terminal to confirm this." in answer.err and "--yes" in answer.err
    assert not list(tmp_path.rglob("*.csv"))


@pytest.mark.parametrize(("said", "status"), [("y\n", 0), ("n\n", 2), ("\n", 2), ("", 2)])
def test_asked(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, status: int
) -> None:
    terminal = io.StringIO(said)
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    paint(tmp_path / "own", NAMES)
    answer = prepare(command, "source=own")
    assert answer.status == status
    assert "images.csv? [y/N]" in answer.err
    assert (tmp_path / "own/images.csv").is_file() is (status == 0)


def test_yes(command: Command, tmp_path: Path) -> None:
    """Also where the path has blanks, quotes and signs that mean something elsewhere."""
    folder = tmp_path / "zoë's, shop = [1]"
    paint(folder, NAMES)
    answer = prepare(command, f"source={folder}", "--yes", "--json")
    assert answer.status == 0, answer.err
    card = json.loads(answer.out)
    assert [card["parts"][p]["images"] for p in ("train", "query", "gallery")] == [24, 12, 12]
    assert card["parts"]["train"]["cameras"] == 3
    with (folder / "images.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 48
    again = prepare(command, f"source={folder}")
    assert again.status == 0 and "exists and is used as it is" in again.out
    assert "ready: harness run method=mskd dataset=folder" in again.out


def test_a_csv_without_training_images(command: Command, tmp_path: Path) -> None:
    paint(tmp_path, ["a.jpg", "b.jpg"])
    rows = "path,id,camera,split\na.jpg,1,1,query\nb.jpg,1,{},gallery\n"
    (tmp_path / "list.csv").write_text(rows.format(1))
    answer = prepare(command, "dataset.csv=list.csv", f"data.root={tmp_path}")
    assert answer.status == 2 and "has a correct gallery image" in answer.err
    assert "There is one camera only. Leave cameras out" in answer.err
    (tmp_path / "list.csv").write_text(rows.format(2))
    answer = prepare(command, "dataset.csv=list.csv", f"data.root={tmp_path}")
    assert answer.status == 0, answer.err
    assert "no training images" in answer.out and "no cameras" not in answer.out
    assert "ready: harness run method=direct_transfer dataset=folder" in answer.out


def test_neither_a_source_nor_a_csv(command: Command) -> None:
    answer = prepare(command)
    assert answer.status == 2
    assert "Give source=DIR" in answer.err and "dataset.csv=FILE" in answer.err


def test_the_csv_elsewhere(command: Command, tmp_path: Path) -> None:
    paint(tmp_path / "own", NAMES)
    answer = prepare(command, "source=own", "dataset.csv=lists/own.csv", "--yes")
    assert answer.status == 0, answer.err
    assert (tmp_path / "data/lists/own.csv").is_file()
    assert f"dataset.images={tmp_path}/own" in answer.out
    loaded = command("prepare", "dataset=folder", "data.root=data", "dataset.csv=lists/own.csv",
                     f"dataset.images={tmp_path}/own", "images.height=32",
                     "images.width=16")  # fmt: skip
    assert loaded.status == 0, loaded.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["source=nowhere"], ["nowhere is not a folder"]),
        (["source=empty"], ["contains no images (.jpg"]),
        (["source=own", "pattern=(?P<id>x+)"], ["None of 48 images matches"]),
        (["source=own", "split_seed=-1"], ["split_seed must be a whole number"]),
        (["source=own", "test_share=many"], ["a share of the identities < 1"]),
        (["source=own", "test_share=1"], ["a share of the identities < 1"]),
        (["test_share=0.3"], ["test_share= applies to your own images only"]),
    ],
)
def test_refused(command: Command, tmp_path: Path, more: list[str], words: list[str]) -> None:
    touch(tmp_path / "own", NAMES)
    (tmp_path / "empty").mkdir()
    answer = prepare(command, *more)
    assert answer.status == 2 and "Traceback" not in answer.err
    for word in words:
        assert word in answer.err
