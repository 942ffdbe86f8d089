"""Releases whose folders and names are like Market-1501's: Duke, VeRi, PersonX, CUHK03; CUHK01."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
from omegaconf import OmegaConf
from scipy.io import savemat

from harness.core.errors import ConfigError, DataError
from harness.core.options import check_options
from harness.core.plugins import find
from harness.data.facts import differences, measure
from harness.data.prepare.layouts import find_layout
from harness.data.types import Dataset, ReIDData, Split
from harness.evaluation.ground_truth import GroundTruth, MatchIndex
from tests.datasets.fakes import DUKE, VERI, in_folders, touch

Modules = Callable[[str], ModuleType]
CLASSES = {
    "cuhk01": "CUHK01", "cuhk03": "CUHK03", "dukemtmcreid": "DukeMTMCReID",
    "market1501": "Market1501", "msmt17": "MSMT17", "personx": "PersonX", "veri776": "VeRi776",
}  # fmt: skip


def load(modules: Modules, name: str, root: Path, **options: Any) -> ReIDData:
    kind = getattr(modules(name), CLASSES[name])
    check_options(kind, options, "dataset")
    made: Dataset = kind(root, **{"check_counts": False, **options})
    return made.load()


def cameras(split: Split) -> list[int]:
    assert split.cameras is not None
    return split.cameras.tolist()


@pytest.mark.parametrize("name", CLASSES)
def test_config_fits_the_class(dataset_module: Modules, tmp_path: Path, name: str) -> None:
    module = dataset_module(name)
    config = OmegaConf.load(Path(str(module.__file__)).with_name("config.yaml"))
    options = cast(dict[str, Any], OmegaConf.to_container(config, resolve=False))
    assert options.pop("_target_") == f"{module.__name__}.{CLASSES[name]}"
    assert (options.pop("name"), options.pop("on_bad_image")) == (name, "error")
    getattr(module, CLASSES[name])(**{**options, "root": tmp_path})


@pytest.mark.parametrize("name", CLASSES)
def test_a_missing_release_is_reported_with_a_hint(
    dataset_module: Modules, tmp_path: Path, name: str
) -> None:
    with pytest.raises(DataError, match=f"is not under {tmp_path}") as caught:
        load(dataset_module, name, tmp_path)
    assert "HARNESS_DATA or data.root=" in caught.value.hint


@pytest.mark.parametrize("name", CLASSES)
def test_pages_say_what_a_user_needs(name: str) -> None:
    text = (find()["datasets"][name].folder / "README.md").read_text(encoding="utf-8")
    for words in ("## Layout and counts", "## Options", "## Citation", "```bibtex"):
        assert words in text
    assert "## Terms" in text or "## Withdrawn" in text


# ------------------------------------------------------------------------------------------- Duke


def test_duke(dataset_module: Modules, tmp_path: Path) -> None:
    touch(tmp_path / "DukeMTMC-reID", in_folders(DUKE))
    data = load(dataset_module, "dukemtmcreid", tmp_path)
    assert data.train.identities.tolist() == [1, 7]
    assert cameras(data.train) == [1, 7]
    assert data.gallery.identities.tolist() == [5, 5, 7140]
    with pytest.raises(DataError, match=r"incomplete: 2 of 16,522"):
        load(dataset_module, "dukemtmcreid", tmp_path, check_counts=True)


def test_duke_is_never_fetched(dataset_module: Modules, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(dataset_module, "dukemtmcreid", tmp_path)
    assert "withdrawn" in caught.value.hint and "never fetched" in caught.value.hint
    touch(tmp_path / "DukeMTMC-reID", in_folders(DUKE)[:-1])
    (tmp_path / "DukeMTMC-reID/query/0005_c9_f0046985.jpg").touch()
    with pytest.raises(DataError, match=r"1 of 2 file names .* are not DukeMTMC-reID's"):
        load(dataset_module, "dukemtmcreid", tmp_path)


# ------------------------------------------------------------------------------------------- VeRi


def test_veri(dataset_module: Modules, tmp_path: Path) -> None:
    touch(tmp_path / "VeRi", in_folders(VERI))
    data = load(dataset_module, "veri776", tmp_path)
    assert cameras(data.train) == [0, 19]
    assert data.gallery.identities.tolist() == [2, 2, 2, 2, 9]
    assert data.gallery.tracks is None and not data.notes
    # the query itself and its track go, the other camera's two images stay
    assert measure(data).matches == 2


def test_without_cameras_veris_query_is_still_not_its_own_match(
    dataset_module: Modules, tmp_path: Path
) -> None:
    """image_test contains the images of image_query."""
    touch(tmp_path / "VeRi", in_folders(VERI))
    data = load(dataset_module, "veri776", tmp_path)
    truth = GroundTruth.of(data.query, data.gallery).without_cameras()
    matches = MatchIndex.of(truth)
    assert matches.itself is not None and matches.itself.tolist() == [0]
    later = replace(data, gallery=data.gallery.subset(np.array([4, 2, 0])))
    itself = MatchIndex.of(GroundTruth.of(later.query, later.gallery).without_cameras()).itself
    assert itself is not None and itself.tolist() == [2]


def test_veris_official_lists_of_junk_are_compared_with_the_rule(
    dataset_module: Modules, tmp_path: Path
) -> None:
    folder = touch(tmp_path / "VeRi", in_folders(VERI))
    (folder / "name_query.txt").write_text("\n".join(VERI["image_query"]))
    (folder / "name_test.txt").write_text("\n".join(VERI["image_test"]))
    (folder / "gt_index.txt").write_text("3 4 \n")
    (folder / "jk_index.txt").write_text("1 2 \n")
    agreed = {"queries_as_official_lists": 1, "queries_in_official_lists": 1}
    assert load(dataset_module, "veri776", tmp_path).notes == agreed
    (folder / "jk_index.txt").write_text("1 \n")
    notes = load(dataset_module, "veri776", tmp_path).notes
    assert notes["queries_as_official_lists"] == 0


def test_veris_tracks(dataset_module: Modules, tmp_path: Path) -> None:
    folder = touch(tmp_path / "VeRi", in_folders(VERI))
    names = VERI["image_test"]
    lines = [f"{names[4]}\n", f"{names[0]} {names[1]}\n", f"{names[3]} {names[2]} \n"]
    with pytest.raises(DataError, match=r"test_track\.txt is missing"):
        load(dataset_module, "veri776", tmp_path, tracks=True)
    (folder / "test_track.txt").write_text("".join(lines))
    gallery = load(dataset_module, "veri776", tmp_path, tracks=True).gallery
    assert gallery.tracks is not None and gallery.tracks.tolist() == [1, 1, 2, 2, 0]
    some = gallery.subset(np.array([4, 2, 3]))
    assert some.tracks is not None and some.tracks.tolist() == [0, 1, 1], "numbered anew"
    for wrong, message in (
        (lines[:2], r"2 images of image_test are in no track: image_test/0002_c003_00030610"),
        ([*lines[:2], f"{names[3]} {names[2]} {names[4]}"], "line 3: a track is of one vehicle"),
        ([*lines, "0002_c004_00030600_0.jpg"], "line 4: .* not in image_test"),
    ):
        (folder / "test_track.txt").write_text("".join(wrong))
        with pytest.raises(DataError, match=message):
            load(dataset_module, "veri776", tmp_path, tracks=True)


# ---------------------------------------------------------------------------------------- PersonX

HARD = {
    "bounding_box_train": ["0004_c3s1_01.jpg", "0004_c12s1_02.jpg"],
    "query": ["0001_c4s1_32.jpg"],
    "bounding_box_test": ["0001_c8s1_01.jpg", "0001_c10s1_01.jpg"],
}


def test_personx(dataset_module: Modules, tmp_path: Path) -> None:
    touch(tmp_path / "PersonX", in_folders(HARD))
    data = load(dataset_module, "personx", tmp_path)
    assert data.name == "personx"
    assert cameras(data.train) == [5, 0]  # 0004_c12… comes before 0004_c3…
    assert cameras(data.query) + cameras(data.gallery) == [1, 3, 2]
    (tmp_path / "PersonX/query/0001_c5s1_32.jpg").touch()
    with pytest.raises(DataError, match=r"0001_c5s1_32\.jpg, but this release has cameras 3, 4, 8"):
        load(dataset_module, "personx", tmp_path)


def v1(root: Path, *backgrounds: int) -> Path:
    for number in backgrounds:
        names = (f"bounding_box_train/0004_c{number}s1_01.jpg", f"query/0001_c{number}s1_32.jpg",
                 f"bounding_box_test/0001_c{number}s1_01.jpg")  # fmt: skip
        touch(root / "PersonX_v1" / str(number), names)
    return root


def test_personx_v1(dataset_module: Modules, tmp_path: Path) -> None:
    v1(tmp_path, 1, 2, 3, 4, 5, 6)
    data = load(dataset_module, "personx", tmp_path, release="v1")
    assert data.name == "personx_v1" and cameras(data.query) == [0, 1, 2, 3, 4, 5]
    some = load(dataset_module, "personx", tmp_path, release="v1", backgrounds=[6, 4])
    assert some.name == "personx_v1_46" and cameras(some.gallery) == [3, 5]
    assert some.facts is not None and some.facts.train == 2 * 14_760


@pytest.mark.parametrize("there", ["hard", "v1"])
def test_the_other_personx_is_named(dataset_module: Modules, tmp_path: Path, there: str) -> None:
    if there == "v1":
        v1(tmp_path, 1, 2)
    else:
        touch(tmp_path / "PersonX", in_folders(HARD))
    asked = "hard" if there == "v1" else "v1"
    with pytest.raises(DataError, match="holds the other release") as caught:
        load(dataset_module, "personx", tmp_path, release=asked)
    assert f"dataset.release={there}" in caught.value.hint


@pytest.mark.parametrize(
    "options", [{"release": "v2"}, {"backgrounds": [1]}, {"backgrounds": [1, 7]}]
)
def test_personx_options(dataset_module: Modules, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        load(dataset_module, "personx", tmp_path, **options)


# ----------------------------------------------------------------------------------------- CUHK03

WORDS = {"detected": "detected", "labelled": "labeled"}
NP = {
    "bounding_box_train": ["0001_c1_1.png", "0001_c2_6.png"],
    "query": ["0003_c1_2.png", "0003_c2_8.png"],
    "bounding_box_test": ["0003_c1_1.png", "0003_c2_9.png"],
}


@pytest.mark.parametrize(("boxes", "word"), [("detected", "detected"), ("labelled", "labeled")])
def test_cuhk03(dataset_module: Modules, tmp_path: Path, boxes: str, word: str) -> None:
    touch(tmp_path / "cuhk03-np" / word, in_folders(NP))
    data = load(dataset_module, "cuhk03", tmp_path, boxes=boxes)
    assert data.name == f"cuhk03_{boxes}"
    assert data.query.identities.tolist() == [3, 3] and cameras(data.query) == [0, 1]
    assert measure(data).matches == len(data.gallery.images), "each answers one query"
    assert load(dataset_module, "cuhk03", tmp_path, boxes=word).name == data.name
    other = "labelled" if boxes == "detected" else "detected"
    with pytest.raises(DataError, match=f"holds the {boxes} boxes") as caught:
        load(dataset_module, "cuhk03", tmp_path, boxes=other)
    assert f"dataset.boxes={boxes}" in caught.value.hint
    with pytest.raises(ConfigError, match="boxes=drawn"):
        load(dataset_module, "cuhk03", tmp_path, boxes="drawn")


@pytest.mark.parametrize("name", ["cuhk03_np_{}", "cuhk03-np-{}", "cuhk03_{}"])
@pytest.mark.parametrize(("boxes", "word"), [("detected", "detected"), ("labelled", "labeled"),
                                             ("labelled", "labelled")])  # fmt: skip
def test_cuhk03_in_the_folders_of_other_projects(
    dataset_module: Modules, tmp_path: Path, name: str, boxes: str, word: str
) -> None:
    home = tmp_path / name.format(word)
    touch(home, in_folders(NP))
    for root in (tmp_path, home):
        assert len(load(dataset_module, "cuhk03", root, boxes=boxes).train.images) == 2
        other = "labelled" if boxes == "detected" else "detected"
        with pytest.raises(DataError, match=f"holds the {boxes} boxes"):
            load(dataset_module, "cuhk03", root, boxes=other)
    layouts = dataset_module("cuhk03").CUHK03(tmp_path, boxes=boxes).layouts()
    members = [f"x/{home.name}/{name}" for name in in_folders(NP)]
    found = find_layout(layouts, members, "source", check_counts=False)
    assert found.targets[members[0]].startswith(f"cuhk03-np/{WORDS[boxes]}/bounding_box_train/")


def test_cuhk03_by_the_protocols_own_file(dataset_module: Modules, tmp_path: Path) -> None:
    names = ["1_001_1_01.png", "1_001_2_06.png", "5_049_1_01.png", "5_049_2_07.png"]
    folder = touch(tmp_path / "cuhk03", [f"cuhk03_detected/{name}" for name in names])
    with pytest.raises(DataError, match=r"cuhk03_new_protocol_config_detected\.mat is missing"):
        load(dataset_module, "cuhk03", tmp_path)
    content = {
        "filelist": np.array([[name] for name in names], dtype=object),
        "labels": np.array([[1], [1], [1467], [1467]], dtype=np.uint16),
        "camId": np.array([[1], [2], [1], [2]], dtype=np.uint8),
        "train_idx": [[1], [2]], "query_idx": [[3]], "gallery_idx": [[4]],
    }  # fmt: skip
    protocol = folder / "cuhk03_new_protocol_config_detected.mat"
    savemat(protocol, content)
    data = load(dataset_module, "cuhk03", tmp_path)
    assert data.train.images.name(1) == "cuhk03_detected/1_001_2_06.png"
    assert data.gallery.identities.tolist() == [1467] and cameras(data.gallery) == [1]
    with pytest.raises(DataError, match="2 of 7,365"):
        load(dataset_module, "cuhk03", tmp_path, check_counts=True)
    (folder / "cuhk03_detected" / names[3]).unlink()
    with pytest.raises(DataError, match=r"1 of 4 images that .* 5_049_2_07\.png"):
        load(dataset_module, "cuhk03", tmp_path)
    protocol.write_bytes(b"not MATLAB's")
    with pytest.raises(DataError, match="is not the file of the new protocol"):
        load(dataset_module, "cuhk03", tmp_path)


def test_cuhk03_as_a_matlab_file(dataset_module: Modules, tmp_path: Path) -> None:
    touch(tmp_path, ["cuhk03_release/cuhk-03.mat"])
    with pytest.raises(DataError, match=r"cuhk-03\.mat is the original") as caught:
        load(dataset_module, "cuhk03", tmp_path)
    assert "CUHK03-NP" in caught.value.hint


# ----------------------------------------------------------------------------------------- CUHK01


def campus(root: Path, identities: int) -> Path:
    return touch(root / "CUHK01", (f"campus/{i:04}00{k}.png" for i in range(1, identities + 1)
                                   for k in range(1, 5)))  # fmt: skip


def test_cuhk01(dataset_module: Modules, tmp_path: Path) -> None:
    campus(tmp_path, 9)
    data = load(dataset_module, "cuhk01", tmp_path, test_identities=4)
    assert [len(s.images) for s in (data.train, data.query, data.gallery)] == [20, 8, 8]
    assert set(cameras(data.query)) == {0} and set(cameras(data.gallery)) == {1}
    assert not set(data.train.identities) & set(data.query.identities)
    assert measure(data).matches == 16
    assert data.query.images.name(0)[-7:] == "001.png"
    again = load(dataset_module, "cuhk01", tmp_path, test_identities=4)
    other = load(dataset_module, "cuhk01", tmp_path, test_identities=4, split_seed=1)
    assert again.fingerprint() == data.fingerprint() != other.fingerprint()
    with pytest.raises(DataError, match="none are left for training"):
        load(dataset_module, "cuhk01", tmp_path)
    with pytest.raises(ConfigError, match="test_identities=971"):
        load(dataset_module, "cuhk01", tmp_path, test_identities=971)


def test_cuhk01_with_a_missing_image(dataset_module: Modules, tmp_path: Path) -> None:
    folder = campus(tmp_path, 971) / "campus"
    load(dataset_module, "cuhk01", tmp_path, check_counts=True)
    (folder / "0007003.png").rename(folder / "0972001.png")
    with pytest.raises(DataError, match="2 identities do not have four images: 0007, 0972"):
        load(dataset_module, "cuhk01", tmp_path, check_counts=True)


# ------------------------------------------------------------------------------------ real copies


@pytest.mark.parametrize("name", ["cuhk01", "cuhk03", "dukemtmcreid", "msmt17", "veri776"])
def test_the_real_one(dataset_module: Modules, name: str) -> None:
    """Where HARNESS_DATA has it: it loads, and agrees with all that is publicly known."""
    if "HARNESS_DATA" not in os.environ:
        pytest.skip("needs HARNESS_DATA")
    try:
        data = load(dataset_module, name, Path(os.environ["HARNESS_DATA"]), check_counts=True)
    except DataError as error:
        pytest.skip(error.cause)
    assert data.facts is not None and differences(data.facts, measure(data)) == []
