"""What can be embedded, in which order, and what is said about bad lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.core.errors import ConfigError, DataError, HarnessError
from harness.experiment.models.inputs import find_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images in two folders, and files that are none."""
    for name in ("b.jpg", "a/2.PNG", "a/10.png", ".hidden.jpg"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 16)).save(path)
    (tmp_path / "images" / "notes.doc").write_text("no image")
    return tmp_path / "images"


def test_a_folder_is_sorted_and_holds_its_folders(folder: Path) -> None:
    assert find_images([folder]).names == ["a/10.png", "a/2.PNG", "b.jpg"]


def test_several_inputs_keep_their_order(folder: Path) -> None:
    found = find_images([folder / "b.jpg", folder / "a"])
    assert found.names == [f"{folder}/b.jpg", f"{folder}/a/10.png", f"{folder}/a/2.PNG"]
    assert found.ids is None and found.cams is None
    assert find_images([folder / "b.jpg"]).names == ["b.jpg"]


def test_a_list_keeps_order_and_duplicates(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# mine\nimages/b.jpg\n\n images/a/2.PNG\nimages/b.jpg\n", encoding="utf-8-sig")
    assert find_images([path]).names == ["images/b.jpg", "images/a/2.PNG", "images/b.jpg"]
    path.write_text("b.jpg\na/2.PNG\n")
    assert find_images([path], root=folder).names == ["b.jpg", "a/2.PNG"]


def csv_of(folder: Path, text: str) -> Path:
    path = folder / "list.csv"
    path.write_text(text)
    return path


def test_a_csv_knows_ids_and_cameras(folder: Path) -> None:
    path = csv_of(folder, "path,id,camera,split\nb.jpg,7,2,query\na/2.PNG,,3.0,gallery\n")
    found = find_images([path])
    assert found.ids is not None and found.ids.tolist() == [7, -1]
    assert found.cams is not None and found.cams.tolist() == [2, 3]
    assert find_images([path], split="gallery").names == ["a/2.PNG"]
    named = find_images([csv_of(folder, "path,id\nb.jpg,ann\na/2.PNG,7\n")])
    assert named.ids is not None and named.ids.tolist() == ["ann", "7"]


def test_cameras_of_some_images_are_left_out(folder: Path) -> None:
    found = find_images([csv_of(folder, "path,camera\nb.jpg,1\na/2.PNG,\n")])
    assert found.cams is None and "1 of 2 images have no camera" in found.notes[0]


def test_what_is_no_input(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00caf\xe9")
    (tmp_path / "blank.txt").write_text("\n# nothing\n")
    cases = {
        "nowhere": (tmp_path / "nowhere", "no file or folder"),
        "empty": (tmp_path / "empty", "holds no images, not even"),
        "binary": (tmp_path / "binary.txt", "no text file in UTF-8|not a text file in UTF-8"),
        "blank": (tmp_path / "blank.txt", "lists no images"),
        "header": (csv_of(folder, "file,id\nb.jpg,1\n"), "column 'path' is missing"),
    }
    for given, message in cases.values():
        with pytest.raises(HarnessError, match=message) as caught:
            find_images([given])
        assert caught.value.hint
    with pytest.raises(DataError, match=r"2 of 3 images are not in .*: x.jpg, y.jpg \(lines 3, 4"):
        find_images([csv_of(folder, "path\nb.jpg\nx.jpg\ny.jpg\n")])
    with pytest.raises(DataError, match="line 3: no path"):
        find_images([csv_of(folder, "path,id\nb.jpg,1\n,2\n")])
    with pytest.raises(DataError, match="There are no images"):
        find_images([])
    with pytest.raises(DataError, match="column 'split' is missing"):
        find_images([csv_of(folder, "path\nb.jpg\n")], split="query")
    with pytest.raises(ConfigError, match="is no CSV, so it has no query images"):
        find_images([folder], split="query")
    with pytest.raises(ConfigError, match="no split 'test'"):
        find_images([folder], split="test")
    with pytest.raises(ConfigError, match="no folder"):
        find_images([folder], root=tmp_path / "nowhere")


def test_the_fingerprint_is_of_files_and_order(folder: Path) -> None:
    one, two = folder / "b.jpg", folder / "a/2.PNG"
    digest = find_images([one, two]).fingerprint()
    assert find_images([one, two]).fingerprint() == digest
    assert find_images([two, one]).fingerprint() != digest
    Image.fromarray(np.full((9, 9, 3), 200, dtype=np.uint8)).save(one)
    assert find_images([one, two]).fingerprint() != digest
