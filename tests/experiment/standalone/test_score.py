"""`harness score`: the numbers of `rank`, and every refusal before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.core.errors import DataError
from harness.evaluation.ground_truth import GroundTruth
from harness.evaluation.ranking import RankingResult, rank
from harness.evaluation.reranking import rerank_blocks
from harness.experiment.standalone import score
from tests.conftest import Command
from tests.experiment.standalone.own_features import slow_imports, write_test_set

Arrays = dict[str, Any]


@pytest.fixture
def arrays(tmp_path: Path) -> Arrays:
    """q.npz and g.npz, and what is in them."""
    return write_test_set(tmp_path)


def write(folder: Path, arrays: Arrays, *leave_out: str) -> None:
    """q.npz and g.npz anew."""
    for side in "qg":
        kept = {k[2:]: v for k, v in arrays.items() if k[0] == side and k not in leave_out}
        np.savez(folder / f"{side}.npz", **kept)


def ranked(arrays: Arrays, cams: bool = True, names: bool = False) -> RankingResult:
    q, g = (torch.from_numpy(arrays[f"{side}_features"]) for side in "qg")
    cameras = (arrays["q_cams"], arrays["g_cams"]) if cams else (None, None)
    both = [arrays[f"{side}_names"].tolist() if names else None for side in "qg"]
    return rank(q, g, GroundTruth(arrays["q_ids"], arrays["g_ids"], *cameras, *both))


def metrics(result: RankingResult) -> dict[str, float]:
    counts = ("queries", "queries_without_match", "gallery")
    return {k: v for k, v in result.as_dict().items() if k not in counts}


def test_metrics_are_those_of_the_harness(command: Command, tmp_path: Path, arrays: Arrays) -> None:
    answer = command("score", "q.npz", "g.npz", "--rerank", "--json", "--out", "s/s.json",
                     "--per-query", "p.npz")  # fmt: skip
    assert answer.status == 0, answer.err
    result = json.loads(answer.out)
    assert json.loads((tmp_path / "s" / "s.json").read_text()) == result
    plain = ranked(arrays)
    assert result["metrics"] == metrics(plain)
    assert 20 < result["metrics"]["mAP"] < 99, "a test set on which something can go wrong"
    features = [torch.from_numpy(arrays[f"{side}_features"]) for side in "qg"]
    truth = GroundTruth(*(arrays[key] for key in ("q_ids", "g_ids", "q_cams", "g_cams")))
    again = rank(None, None, truth, distances=rerank_blocks(features[0], features[1]))
    assert result["reranked"] == metrics(again)
    assert result["reranked"] != result["metrics"]
    assert result["queries"] == 10
    assert result["queries_without_match"] == plain.skipped_queries
    assert result["seconds"].keys() == {"read", "rank", "rerank", "all"}
    assert result["peak_mib"]["host"] > result["peak_mib_without_features"]["host"] - 0.1
    with np.load(tmp_path / "p.npz") as kept:
        assert np.array_equal(kept["ap"], plain.ap, equal_nan=True)
        assert np.array_equal(kept["first_match_rank"], plain.first_match_rank)
        assert np.array_equal(kept["reranked_inp"], again.inp, equal_nan=True)
        assert np.array_equal(kept["ids"], arrays["q_ids"])
        assert np.array_equal(kept["names"], arrays["q_names"])


def test_what_people_see(command: Command, arrays: Arrays) -> None:
    answer = command("score", "q.npz", "g.npz", "--rerank")
    m = metrics(ranked(arrays))
    line = f"ranking   mAP {m['mAP']:.1f}  Rank-1 {m['rank1']:.1f}  Rank-5 {m['rank5']:.1f}  "
    line += f"Rank-10 {m['rank10']:.1f}  Rank-20 {m['rank20']:.1f}  mINP {m['mINP']:.1f}\n"
    assert line in answer.out
    assert "re-ranked mAP " in answer.out
    assert "queries   10, 0 without a match" in answer.out
    assert "MiB at most" in answer.out
    assert "re-ranked" not in command("score", "q.npz", "g.npz").out


def test_view_0_is_ranked_and_rows_are_normalised(
    command: Command, tmp_path: Path, arrays: Arrays
) -> None:
    views = dict(arrays)
    noise = np.random.default_rng(0)
    for key in ("q_features", "g_features"):
        other = noise.normal(size=(len(arrays[key]), 2, 16))
        views[key] = np.concatenate([3 * arrays[key][:, None], other], axis=1)
    write(tmp_path, views)
    answer = command("score", "q.npz", "g.npz", "--json")
    result = json.loads(answer.out)["metrics"]
    assert result["mAP"] == pytest.approx(ranked(arrays).as_dict()["mAP"])
    assert answer.err.count("divided by its norm") == 2
    assert "The features have 3 views; view 0, the global one, is ranked." in answer.err


@pytest.mark.parametrize(
    "written",
    [
        lambda ids: ids.astype(float),
        lambda ids: ids.astype(str),
        lambda ids: np.array([f"{i:04d}" for i in ids]),
        lambda ids: np.array([f"{i}.0" for i in ids]),
        lambda ids: np.array([f"person_{i}" if i >= 0 else "-1.0" for i in ids]),
        lambda ids: np.array([f"person_{i}" if i >= 0 else "" for i in ids]),
        lambda ids: np.array([f"person_{i}" if i >= 0 else "" for i in ids]).astype("S"),
        lambda ids: np.where(ids >= 0, ids, np.nan),
    ],
    ids=[
        "floats",
        "digits",
        "zeros in front",
        "floats as words",
        "words",
        "words and blanks",
        "bytes and blanks",
        "floats and NaN",
    ],
)
@pytest.mark.usefixtures("arrays")
def test_ids_of_other_kinds(
    command: Command, tmp_path: Path, arrays: Arrays, written: Callable[[Any], Any]
) -> None:
    """-1.0 is junk, as -1 is, also among names."""
    junk = dict(arrays)
    junk["g_ids"] = np.where(arrays["g_ids"] == 3, -1, arrays["g_ids"])
    expected = metrics(ranked(junk))
    write(tmp_path, junk | {key: written(junk[key]) for key in ("q_ids", "g_ids")})
    answer = command("score", "q.npz", "g.npz", "--json")
    assert answer.status == 0, answer.err
    assert json.loads(answer.out)["metrics"] == expected


def test_missing_ids_are_counted(command: Command, tmp_path: Path, arrays: Arrays) -> None:
    ids = arrays["g_ids"].astype(float)
    ids[:4] = np.nan
    write(tmp_path, arrays | {"g_ids": ids})
    answer = command("score", "q.npz", "g.npz")
    assert "4 of 70 'ids' of g.npz are missing: they count as junk, -1." in answer.out


def test_large_ids_in_words_stay_apart(arrays: Arrays) -> None:
    """Floats cannot tell them apart."""
    first, second = str(2**53), str(2**53 + 1)
    side = {"features": np.eye(2), "ids": np.array([first, second]), "cams": np.array([0, 1])}
    gallery = side | {"cams": np.array([1, 0])}
    assert score.score(side, gallery).query.ids.tolist() == [2**53, 2**53 + 1]


def test_cameras_with_names(command: Command, tmp_path: Path, arrays: Arrays) -> None:
    write(tmp_path, arrays)
    expected = command("score", "q.npz", "g.npz", "--json").out
    for kind in ("camera {}", "{}.0"):
        words = {key: np.array([kind.format(c) for c in arrays[key]]) for key in arrays
                 if key.endswith("cams")}  # fmt: skip
        write(tmp_path, arrays | words)
        answer = command("score", "q.npz", "g.npz", "--json")
        assert json.loads(answer.out)["metrics"] == json.loads(expected)["metrics"], answer.err


def test_scores_in_a_notebook(arrays: Arrays) -> None:
    """`score` takes arrays by name, and leaves them as they are."""
    query, gallery = (
        {key[2:]: value for key, value in arrays.items() if key.startswith(side)}
        for side in ("q_", "g_")
    )
    query["features"] = 3 * query["features"]
    before = query["features"].copy()
    scores = score.score(query, gallery, rerank=True)
    assert metrics(scores.ranking) == pytest.approx(metrics(ranked(arrays)))
    assert scores.reranked is not None and scores.reranked.mAP != scores.ranking.mAP
    assert "divided by its norm" in scores.notes[0]
    assert np.array_equal(query["features"], before)
    del query["ids"]
    with pytest.raises(DataError, match="no array 'ids'"):
        score.score(query, gallery)


@pytest.mark.parametrize("typed", [["--no-cams"], []])
@pytest.mark.parametrize("names", [True, False])
def test_without_cameras_only_the_image_itself_is_removed(
    command: Command, tmp_path: Path, arrays: Arrays, typed: list[str], names: bool
) -> None:
    own = dict(arrays)
    for key in ("features", "ids", "cams", "names"):  # queries are gallery images, too
        own[f"g_{key}"] = np.concatenate([arrays[f"g_{key}"], arrays[f"q_{key}"]])
    left = () if typed else ("q_cams", "g_cams")
    write(tmp_path, own, *left, *(() if names else ("q_names",)))
    answer = command("score", "q.npz", "g.npz", "--json", *typed)
    assert answer.status == 0, answer.err
    result = json.loads(answer.out)
    assert result["metrics"] == metrics(ranked(own, cams=False, names=names))
    assert result["cameras"] is False
    assert ("the one with its name" in answer.err) == names
    assert ("nothing is removed" in answer.err) != names
    if not names:
        assert result["metrics"]["rank1"] == 100, "each query found itself"


def test_matches_are_counted_as_the_ranking_counts_them() -> None:
    """What is refused before any work is what `rank` would refuse after it."""
    rng = np.random.default_rng(0)
    compared = 0
    for trial in range(50):
        images = rng.integers(1, 30, 2)
        ids = [rng.integers(-1, 6, n) for n in images]
        cams = [rng.integers(0, 3, n) * 7 - 3 for n in images]
        names = [rng.permutation(40)[:n].astype(str).tolist() for n in images]
        sides = [
            score.Labels(i, c if trial % 2 else None, n)
            for i, c, n in zip(ids, cams, names, strict=True)
        ]
        matches = score._matches(*sides)
        if not matches.any():
            continue
        compared += 1
        features = [torch.ones(int(n), 1) for n in images]
        truth = GroundTruth(ids[0], ids[1], sides[0].cams, sides[1].cams, names[0], names[1])
        result = rank(features[0], features[1], truth)
        assert np.array_equal(matches > 0, result.valid)
    assert compared > 30


def test_identical_images_are_ranked_by_number(command: Command, tmp_path: Path) -> None:
    np.savez(tmp_path / "q.npz", features=np.ones((2, 4)), ids=np.array([1, 2]))
    np.savez(tmp_path / "g.npz", features=np.ones((4, 4)), ids=np.array([2, 2, 1, 1]))
    answer = command("score", "q.npz", "g.npz", "--json", "--rerank")  # fewer images than k1
    result = json.loads(answer.out)
    assert result["metrics"]["rank1"] == 50
    assert result["metrics"]["mAP"] == pytest.approx(100 * (1 + (1 / 3 + 2 / 4) / 2) / 2)
    assert 0 < result["reranked"]["mAP"] <= 100


def with_value(key: str, row: int, value: float) -> dict[str, object]:
    def change(arrays: Arrays) -> np.ndarray:
        changed = arrays[key].copy()
        changed[row] = value
        return changed

    return {key: change}


#: what is done to the arrays → what has to be in the answer
BAD: dict[str, tuple[dict[str, object], list[str]]] = {
    "no features": ({"q_features": None}, ["q.npz holds no array 'features'"]),
    "no ids": ({"g_ids": None}, ["g.npz holds no array 'ids'", "Known: cams"]),
    "ids short": ({"q_ids": lambda a: a["q_ids"][:-1]}, ["(9,), but there are 10 images"]),
    "cams long": ({"g_cams": lambda a: np.zeros(71, int)}, ["(71,), but there are 70 images"]),
    "names short": ({"g_names": lambda a: a["g_names"][1:]}, ["(69,), but there are 70 images"]),
    "ids are fractions": (
        {"q_ids": lambda a: a["q_ids"] / 2},
        ["'ids' of q.npz is float64 and holds 0.5, which is not an integer"],
    ),
    "ids are missing": (
        {"g_ids": lambda a: np.full(70, np.nan)},
        ["All 70 of 'ids' of g.npz are missing"],
    ),
    "ids are words here, numbers there": (
        {"q_ids": lambda a: np.array([f"p{i}" for i in a["q_ids"]])},
        ["holds words"],
    ),
    "views differ": (
        {"q_features": lambda a: np.stack([a["q_features"]] * 3, axis=1)},
        ["Query features have 3 views, gallery features 1"],
    ),
    "names are numbers": ({"q_names": lambda a: a["q_ids"]}, ["int64, not strings"]),
    "dimensions differ": (
        {"g_features": lambda a: a["g_features"][:, :8]},
        ["Query features have 16 dimensions, gallery features 8"],
    ),
    "features are ints": ({"q_features": lambda a: np.ones((10, 16), int)}, ["features are float"]),
    "features are flat": ({"q_features": lambda a: np.ones(10)}, ["shape (10,)"]),
    "no queries": ({"q_features": lambda a: np.ones((0, 16))}, ["empty"]),
    "NaN": (with_value("g_features", 5, np.nan), ["not finite", "g.npz", "row 5"]),
    "zero": (with_value("q_features", 9, 0), ["1 of 10 rows", "zero", "row 9"]),
    "one side has cams": ({"q_cams": None}, ["'cams' of q.npz is missing", "--no-cams"]),
    "other people": ({"q_ids": lambda a: a["q_ids"] + 50}, ["an identity that the gallery has"]),
    "all junk": ({"g_ids": lambda a: a["g_ids"] * 0 - 1}, ["an identity that the gallery has"]),
    "one camera": (
        {"q_cams": lambda a: a["q_cams"] * 0, "g_cams": lambda a: a["g_cams"] * 0},
        ["10 have images of their identity", "--no-cams"],
    ),
    "objects": ({"q_ids": lambda a: a["q_ids"].astype(object)}, ["pickled Python objects"]),
    "names twice": (
        {"q_cams": None, "g_cams": None, "g_names": lambda a: a["g_names"][[0] * 70]},
        ["'names' of g.npz are not unique"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arrays(
    command: Command, tmp_path: Path, arrays: Arrays, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("ranked before it was looked at")

    monkeypatch.setattr(score, "rank", too_late)
    changes, said = BAD[case]
    changed = {k: v(arrays) for k, v in changes.items() if callable(v)}
    write(tmp_path, arrays | changed, *(key for key, v in changes.items() if v is None))
    answer = command("score", "q.npz", "g.npz", "--out", "s.json")
    assert answer.status == 2
    for words in said:
        assert words in answer.err
    assert len(answer.err.splitlines()) >= 2, "cause and hint"
    assert not (tmp_path / "s.json").exists()


#: what was typed → what has to be in the answer
SLIPS = {
    "q.npz": ["required: gallery"],
    "q.npz gone.npz": ["gone.npz does not exist"],
    "q.npz .": ["is a folder"],
    "one.npy g.npz": ["one.npy is a single array", "numpy.savez"],
    "q.npz g.npz --out s.txt": ["does not end in .json", "s.json"],
    "q.npz g.npz --per-query p.csv": ["does not end in .npz"],
    "q.npz g.npz --out there.json": ["there.json exists", "--force"],
    "q.npz g.npz --force --per-query g.npz": ["g.npz is the gallery file"],
    "q.npz g.npz --out one.npy/s.json": ["cannot be written", "--out"],
    "q.npz g.npz --threads -2": ["--threads -2 must be from 1"],
    "q.npz g.npz --threads 9999": ["--threads 9999 must be from 1"],
    "q.npz g.npz --device gpu": ["gpu"],
}


@pytest.mark.parametrize("typed", SLIPS)
@pytest.mark.usefixtures("arrays")
def test_slips(command: Command, tmp_path: Path, typed: str) -> None:
    np.save(tmp_path / "one.npy", np.ones((10, 16)))
    (tmp_path / "there.json").write_text("precious")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    answer = command("score", *typed.split())
    assert answer.status == 2
    for words in SLIPS[typed]:
        assert words in answer.err
    assert not answer.out
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.usefixtures("arrays")
def test_force_overwrites(command: Command, tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text("old")
    assert command("score", "q.npz", "g.npz", "--out", "s.json", "--force").status == 0
    assert "mAP" in json.loads((tmp_path / "s.json").read_text())["metrics"]


@pytest.mark.usefixtures("arrays")
@pytest.mark.parametrize("typed", [[], ["--rerank"]])
def test_nothing_slow_is_imported(tmp_path: Path, typed: list[str]) -> None:
    assert slow_imports(tmp_path, "score", "q.npz", "g.npz", *typed) == set()
