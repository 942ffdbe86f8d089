"""`harness label`: the labels of the labeler itself, and every refusal before any work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from harness.components.labelers import JaccardDBSCAN
from harness.core.errors import DataError
from harness.core.paths import CONF
from harness.experiment.standalone.label import label, make_labeler
from tests.conftest import Command
from tests.experiment.standalone.own_features import people, slow_imports

FEW = ("labeler.k1=8", "labeler.k2=3")


@pytest.fixture
def features(tmp_path: Path) -> np.ndarray:
    """f.npy: 60 images of 6 people, three views (60, 3, 16)."""
    views = np.stack([people(6, 10, spread=0.3, seed=seed) for seed in range(3)], axis=1)
    np.save(tmp_path / "f.npy", views)
    return views


def expected(views: np.ndarray, **options: float) -> np.ndarray:
    labeler = JaccardDBSCAN(k1=8, k2=3, **options)  # type: ignore[arg-type]
    return labeler.label(torch.from_numpy(views)).labels.numpy()


@pytest.mark.parametrize("part_weight", [0.0, 0.15])
def test_labels_are_those_of_the_labeler(
    command: Command, tmp_path: Path, features: np.ndarray, part_weight: float
) -> None:
    options = [*FEW, "labeler.eps=0.5", f"labeler.part_weight={part_weight}"]
    answer = command("label", "f.npy", "--out", "sub/l.npy", "labeler=jaccard_dbscan", *options)
    assert answer.status == 0, answer.err
    labels = np.load(tmp_path / "sub" / "l.npy")
    assert labels.dtype == np.int64
    assert np.array_equal(labels, expected(features, eps=0.5, part_weight=part_weight))
    assert ("Only view 0" in answer.out) == (part_weight == 0)
    clusters, outliers = labels.max() + 1, (labels < 0).sum()
    assert f"clusters  {clusters}\n" in answer.out
    assert f"outliers  {outliers} (" in answer.out
    assert f"largest   {np.bincount(labels[labels >= 0]).max()} images" in answer.out
    for word in ("read", "search", "jaccard", "cluster", "all", "MiB at most", "features 0, work"):
        assert word in answer.out
    assert "normalised" not in answer.out


def test_json_is_one_object_and_nothing_else(
    command: Command, tmp_path: Path, features: np.ndarray
) -> None:
    np.savez(tmp_path / "f.npz", features=5 * features[:, 0].astype(np.float64))
    answer = command("label", "f.npz", "--json", "--out", "l.npy", *FEW)
    result = json.loads(answer.out)
    labels = expected(features)
    assert np.array_equal(np.load(tmp_path / "l.npy"), labels)
    assert result["clusters"] == labels.max() + 1
    assert result["outliers"] == (labels < 0).sum()
    assert result["largest_cluster"] == np.bincount(labels[labels >= 0]).max()
    assert (result["images"], result["views"], result["dimensions"]) == (60, 1, 16)
    assert result["seconds"].keys() == {"read", "search", "jaccard", "cluster", "all"}
    peak = result["peak_mib"]["host"]
    assert peak >= result["before_mib"]["host"] > 0
    without = result["peak_mib_without_features"]["host"]
    assert without == pytest.approx(peak - result["features_mib"], abs=0.11)
    assert "every row was divided by its norm" in answer.err


def test_neighbours_reach_the_labeler(
    command: Command, tmp_path: Path, features: np.ndarray
) -> None:
    answer = command("label", "f.npy", "neighbours.k1=8", "--out", "l.npy", "neighbours.k2=3")
    assert "k1 8, k2 3" in answer.out
    assert np.array_equal(np.load(tmp_path / "l.npy"), expected(features))


@pytest.mark.parametrize(
    ("name", "rows", "options", "clusters", "outliers", "largest"),
    [
        ("all outliers", np.eye(40, 64), ["labeler.eps=0.01"], 0, 40, 0),
        ("one cluster", people(1, 40, spread=0.01), ["labeler.eps=1"], 1, 0, 40),
        ("identical", np.ones((40, 64)), [], 1, 0, 40),
    ],
)
def test_extremes(
    command: Command,
    tmp_path: Path,
    name: str,
    rows: np.ndarray,
    options: list[str],
    clusters: int,
    outliers: int,
    largest: int,
) -> None:
    np.save(tmp_path / "f.npy", rows)
    answer = command("label", "f.npy", "--out", "l.npy", "--json", *FEW, *options)
    assert answer.status == 0, answer.err
    result = json.loads(answer.out)
    found = tuple(result[key] for key in ("clusters", "outliers", "largest_cluster"))
    assert found == (clusters, outliers, largest), name
    labels = np.load(tmp_path / "l.npy")
    assert set(labels.tolist()) == ({-1} if outliers else {0})


#: what was typed after `label f.npy --out l.npy` → what has to be in the answer
SLIPS = {
    "labeler=jaccard_dbscn": ["no labeler 'jaccard_dbscn'", "'jaccard_dbscan'"],
    "labeler=none": ["labeler=none makes no labels", "list labelers"],
    "labeler=3": ["no labeler '3'", "jaccard_dbscan"],
    "labeler.epss=0.5": ["no option 'labeler.epss'", "'labeler.eps'"],
    "labeler._target_=os.getcwd": ["no option 'labeler.eps'"],
    "eps=0.5": ["no option 'eps'"],
    "jaccard_dbscan": ["'jaccard_dbscan' cannot be read", "KEY=VALUE"],
    "labeler.eps=0": ["labeler.eps=0 is out of range: 0 < eps ≤ 1"],
    "labeler.eps=1.01": ["labeler.eps=1.01 is out of range: 0 < eps ≤ 1"],
    "labeler.eps=.nan": ["labeler.eps=.nan must be a number"],
    "labeler.eps=abc": ["labeler.eps=abc must be a number", "default is 0.6"],
    "labeler.eps=": ["labeler.eps= must be a number"],
    "labeler.eps=[": ["'labeler.eps=[' cannot be read"],
    "labeler.k1=7.5": ["labeler.k1=7.5 must be a whole number", "default is 30"],
    "labeler.k1=${nowhere}": ["nowhere"],
    "labeler.k1=4": ["labeler.k2=6 must not be larger than labeler.k1=4"],
    "labeler.k1=61": ["60 images are too few", "k1 61", "needs 61"],
    "labeler.search=5": ["labeler.search=5 must be auto, torch or faiss"],
    "labeler.search=fais": ["labeler.search=fais must be", "Did you mean 'faiss'?"],
    "labeler.part_weight=0.5": ["labeler.part_weight=0.5 is out of range: 0 ≤ part_weight < 0.5"],
    "--cams c.npy": ["c.npy does not exist"],
    "--cams short.npy": ["short.npy has shape (59,), but there are 60 images"],
    "--cams f.npy": ["f.npy has shape (60, 3, 16), but there are 60 images"],
    "--cams half.npy": ["half.npy is float64 and holds 0.5"],
    "--threads -1": ["--threads -1 must be from 1"],
    "--threads 9999": ["--threads 9999 must be from 1 to the number of processors"],
    "--threads two": ["--threads", "two"],
    "--device cdua": ["--device cdua", "'cuda'"],
    "--device meta": ["--device meta is not supported"],
    "--nothing": ["--nothing"],
}


@pytest.mark.parametrize("typed", SLIPS)
@pytest.mark.usefixtures("features")
def test_slips(command: Command, tmp_path: Path, typed: str) -> None:
    np.save(tmp_path / "short.npy", np.arange(59))
    np.save(tmp_path / "half.npy", np.arange(60) / 2)
    before = sorted(tmp_path.iterdir())
    answer = command("label", "f.npy", "--out", "l.npy", *typed.split())
    assert answer.status == 2
    assert answer.err.startswith("error: ")
    for words in SLIPS[typed]:
        assert words in answer.err
    assert not answer.out
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (np.zeros((9, 4), dtype=np.int32), "int32; features are"),
        (np.ones(9), "shape (9,)"),
        (np.ones((9, 1, 1, 4)), "shape (9, 1, 1, 4)"),
        (np.ones((0, 4)), "empty"),
        (np.full((9, 4), np.nan), "9 of 9 rows in f.npy are not finite"),
        (np.zeros((9, 4)), "9 of 9 rows in f.npy are zero"),
        (np.ones((7, 4)), "7 images are too few"),
        (np.array([[1], [2, 3]], dtype=object), "pickled"),
    ],
)
def test_features_that_are_none(
    command: Command, tmp_path: Path, stored: np.ndarray, said: str
) -> None:
    np.save(tmp_path / "f.npy", stored, allow_pickle=True)
    answer = command("label", "f.npy", "--out", "l.npy", *FEW)
    assert answer.status == 2
    assert said in answer.err
    assert len(answer.err.splitlines()) == 2, "cause and hint"
    assert not (tmp_path / "l.npy").exists()


def test_part_weight_and_one_view(command: Command, tmp_path: Path, features: np.ndarray) -> None:
    np.save(tmp_path / "one.npy", features[:, 0])
    answer = command("label", "one.npy", "--out", "l.npy", *FEW, "labeler.part_weight=0.15")
    assert answer.status == 2
    assert "there is one view only" in answer.err
    np.save(tmp_path / "five.npy", np.tile(features, (1, 2, 1))[:, :5])
    answer = command("label", "five.npy", "--out", "l.npy", *FEW, "labeler.part_weight=0.25")
    assert answer.status == 2
    assert "below 0.25" in answer.err


@pytest.mark.usefixtures("features")
def test_nothing_is_overwritten_unasked(command: Command, tmp_path: Path) -> None:
    (tmp_path / "l.npy").write_bytes(b"precious")
    answer = command("label", "f.npy", "--out", "l.npy", *FEW)
    assert answer.status == 2
    assert "l.npy exists" in answer.err
    assert "--force" in answer.err
    assert (tmp_path / "l.npy").read_bytes() == b"precious"
    assert command("label", "f.npy", "--out", "l.npy", "--force", *FEW).status == 0
    assert np.load(tmp_path / "l.npy").shape == (60,)
    before = (tmp_path / "f.npy").read_bytes()
    answer = command("label", "f.npy", "--out", f"{tmp_path}/f.npy", "--force", *FEW)
    assert answer.status == 2
    assert "is the feature file" in answer.err
    assert (tmp_path / "f.npy").read_bytes() == before


@pytest.mark.usefixtures("features")
def test_the_place_of_the_output_is_tried_first(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: object) -> None:
        raise AssertionError("labelled before the output was looked at")

    monkeypatch.setattr(JaccardDBSCAN, "label", too_late)
    (tmp_path / "file").touch()
    (tmp_path / "folder.npy").mkdir()
    for out, said in (
        ("file/l.npy", "cannot be written"),
        ("folder.npy", "is a folder"),
        ("l.txt", "does not end in .npy"),
    ):
        answer = command("label", "f.npy", "--out", out, *FEW)
        assert answer.status == 2
        assert said in answer.err
    assert command("label", "f.npy", *FEW).status == 2, "--out is required"


LABELER_PY = '''
from harness.core.errors import HarnessError
from harness.core.interfaces import PseudoLabeler, PseudoLabels


class ByCamera(PseudoLabeler):
    """A label is a camera."""

    uses_cameras = True

    def __init__(self, shift):
        self.shift = shift

    def label(self, features, cameras=None):
        return PseudoLabels(cameras.cpu() + self.shift, {"seconds_thinking": 0.25, "depth": 2})
'''


@pytest.mark.usefixtures("features")
def test_a_labeler_of_ones_own_with_cameras(command: Command, tmp_path: Path) -> None:
    method = tmp_path / "mine" / "methods" / "by_camera"
    conf = tmp_path / "mine" / "conf" / "labeler"
    for folder in (method, conf):
        folder.mkdir(parents=True)
    (method / "method.py").write_text(LABELER_PY)
    (method / "config.yaml").write_text("method: {name: by_camera}\n")
    target = "harness_plugins.methods.by_camera.method.ByCamera"
    (conf / "by_camera.yaml").write_text(f"_target_: {target}\nshift: 0\n")
    (conf / "shifted.yaml").write_text("defaults: [by_camera, _self_]\nshift: -1\n")
    cams = np.arange(60) % 4
    np.savez(tmp_path / "c.npz", cams=cams.astype(np.uint8))

    typed = ["--plugins", "mine", "label", "f.npy", "--out", "l.npy", "--force", "--json"]
    answer = command(*typed, "labeler=by_camera")
    assert answer.status == 2
    assert "ByCamera needs cameras" in answer.err
    for name, shift in (("by_camera", 0), ("shifted", -1)):
        answer = command(*typed, f"labeler={name}", "--cams", "c.npz")
        assert answer.status == 0, answer.err
        assert np.array_equal(np.load(tmp_path / "l.npy"), cams + shift)
        result = json.loads(answer.out)
        assert result["seconds"]["thinking"] == 0.25
        assert result["depth"] == 2
        assert result["clusters"] == 4 + shift
    # cameras are given only to a labeler that declares them
    answer = command("label", "f.npy", "--out", "m.npy", "--cams", "c.npz", *FEW)
    assert answer.status == 0
    assert "cameras are not used" in answer.out


@pytest.mark.usefixtures("features")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("_target_: [\n", "not valid YAML"),
        ("- a\n", "keys and values"),
        ("_target_: nowhere.Labeler\n", "_target_=nowhere.Labeler cannot be imported"),
        ("_target_: pathlib.Path\n", "no PseudoLabeler"),
        (
            "_target_: harness.components.labelers.JaccardDBSCAN\nradius: 1\n",
            "no option 'labeler.radius'",
        ),
        ("defaults: [jaccard_dbscn]\n", "'jaccard_dbscan'"),
    ],
)
def test_a_broken_labeler_of_ones_own(
    command: Command, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "conf" / "labeler").mkdir(parents=True)
    (tmp_path / "methods").mkdir()
    (tmp_path / "conf" / "labeler" / "mine.yaml").write_text(text)
    answer = command("--plugins=.", "label", "f.npy", "labeler=mine", "--out", "l.npy")
    assert answer.status == 2
    assert said in answer.err


@pytest.mark.usefixtures("features")
def test_nothing_slow_is_imported(tmp_path: Path) -> None:
    # Hydra composes the labeler, as in `harness run`
    assert slow_imports(tmp_path, "label", "f.npy", "--out", "l.npy", *FEW) == {"hydra"}
    assert (tmp_path / "l.npy").is_file()


def test_neighbours_are_those_of_a_run() -> None:
    run, label = (OmegaConf.load(CONF / f"{name}.yaml") for name in ("config", "label"))
    assert run.neighbours == label.neighbours


def test_labels_in_a_notebook(features: np.ndarray) -> None:
    """`label` takes an array and leaves it as it is."""
    scaled = 3 * features
    before = scaled.copy()
    name, labeler = make_labeler(*FEW, "labeler.part_weight=0.15")
    made = label(scaled, labeler)
    assert name == "jaccard_dbscan"
    assert np.array_equal(made.labels, expected(features, part_weight=0.15))
    assert np.array_equal(scaled, before)
    assert made.outliers == (made.labels < 0).sum() and made.sizes.sum() + made.outliers == 60
    assert "divided by its norm" in made.notes[0]
    with pytest.raises(DataError, match="60 images are too few"):
        label(features, make_labeler("labeler.k1=61")[1])
