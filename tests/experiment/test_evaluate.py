"""`harness eval`: other metrics of a finished run, from kept features or its network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.core.errors import DataError
from harness.evaluation import kept_features
from harness.evaluation.ground_truth import GroundTruth
from harness.evaluation.protocol import EvaluationProtocol, score
from harness.experiment import evaluate
from harness.experiment.evaluate import evaluate_run
from harness.experiment.run import run_experiment
from harness.results.store import Run
from tests.conftest import Command
from tests.oracles.ranking import rank_slowly
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A cell that kept its features."""
    root = tmp_path_factory.mktemp("run")
    return run_experiment(
        tiny_config(root, "method=cluster_contrast", "evaluation.keep_features=true")
    )


def places(run: Run) -> dict[str, Any]:
    root = run.folder.parents[1]
    return {"store": str(root / "runs"), "data_root": str(root / "data"), "device": "cpu"}


def test_kept_features_are_small_and_name_nobody(run: Run) -> None:
    path = kept_features.path_of(run.folder, "train")
    with np.load(path) as arrays:
        assert arrays["query"].dtype == arrays["gallery"].dtype == np.float16
        assert arrays["query_names"].dtype.kind == "i"
    config = json.loads((run.folder / "config.json").read_text())
    assert "keep_features" not in config["evaluation"], "what is kept changes no number"


def test_from_features_as_from_the_network(run: Run) -> None:
    """float16 keeps about three digits of a feature: mAP is the same to a tenth of a point."""
    by_features = evaluate_run(run.name, **places(run))
    by_network = evaluate_run(run.name, images=True, **places(run))
    assert (by_features["source"], by_network["source"]) == ("features", "network")
    assert by_network["mAP"] == pytest.approx(run.record["metrics"]["mAP"])
    assert by_features["mAP"] == pytest.approx(by_network["mAP"], abs=0.1)
    assert by_features["queries"] == by_network["queries"]
    protocols = [
        EvaluationProtocol(rerank=True, k1=5, k2=2, lam=0.5),
        EvaluationProtocol(cameras=False),
    ]
    for protocol in protocols:
        pair = [
            evaluate_run(run.name, protocol=protocol, images=images, **places(run))["mAP"]
            for images in (False, True)
        ]
        assert pair[0] == pytest.approx(pair[1], abs=0.5)
        assert abs(pair[1] - by_network["mAP"]) > 0.5, "another rule, another number"


def test_features_need_neither_images_nor_network(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "load_network", lambda *_: pytest.fail("a network was loaded"))
    evaluate_run(run.name, store=places(run)["store"], data_root="nowhere", device="cpu")


def test_command(run: Run, command: Command) -> None:
    store = ["--store", places(run)["store"]]
    record = (run.folder / "record.json").read_bytes()
    answer = command("eval", run.name, *store, "--ranks", "1,3", "--no-cams")
    assert answer.status == 0, answer.err
    assert "without cameras: mAP" in answer.out and "Rank-3" in answer.out
    assert "Rank-5" not in answer.out and "[from kept features, float16]" in answer.out
    assert not list(run.folder.glob("evaluation-*"))
    words = ["--rerank", "--k1", "5", "--k2", "2", "--lambda", "0.5", "--save", "--json"]
    answer = command("eval", run.name, *store, *words)
    printed = json.loads(answer.out)
    path = run.folder / "evaluation-train-rerank-k1_5-k2_2-lambda_0.5.json"
    written = json.loads(path.read_text())
    assert written["metrics"] == {k: printed[k] for k in written["metrics"]}
    assert written["rule"] == {
        "reranking": {"k1": 5, "k2": 2, "lambda": 0.5}, "cameras": True, "ranks": [1, 5, 10, 20],
    }  # fmt: skip
    with np.load(path.with_suffix(".npz")) as arrays:
        assert 100 * np.nanmean(arrays["train_ap"]) == pytest.approx(written["metrics"]["mAP"])
    assert (run.folder / "record.json").read_bytes() == record, "the record stays as it is"
    for words_, said in {
        "--k1 3": "Add --rerank", "--rerank --k1 3 --k2 6": "1 ≤ k2 ≤ k1",
        "--rerank --lambda 2": "0 ≤ lambda ≤ 1", "--ranks 0": "1 or more", "--ranks x": "--ranks",
    }.items():  # fmt: skip
        answer = command("eval", run.name, *store, *words_.split())
        assert answer.status == 2 and said in answer.err, (words_, answer.err)


def test_a_value_that_is_no_yaml_is_refused(run: Run, command: Command) -> None:
    where = ["--store", places(run)["store"], "--device", "cpu"]
    for words in (["eval", run.name], ["show", run.name, "ranked"]):
        answer = command(*words, "dataset.seed=[", *where)
        assert answer.status == 2 and "'dataset.seed=[' cannot be read" in answer.err


def test_a_name_that_no_file_may_have_is_refused(run: Run, command: Command) -> None:
    where = ["--store", places(run)["store"], "--device", "cpu"]
    for name, said in {"a/b": "not a valid folder name", "x" * 101: "too long"}.items():
        words = ["dataset=synthetic", f"dataset.name={name}", "--save", *where]
        answer = command("eval", run.name, *words)
        assert answer.status == 2 and f"dataset.name={name} is" in answer.err
        assert said in answer.err
    assert not list(run.folder.glob("eval-*"))


def test_damaged_features_are_refused(run: Run, command: Command) -> None:
    path = kept_features.path_of(run.folder, "train")
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:500])
        answer = command("eval", run.name, "--store", places(run)["store"])
        assert answer.status == 2 and "cannot be read" in answer.err
    finally:
        path.write_bytes(whole)


TRACKS = {
    "fewer than images": [0, 1, 2],
    "a gap": [0, 0, 2, 2, 3, 3],
    "below 0": [-1, -1, 0, 0, 1, 1],
    "fractions": [0.0, 0.0, 1.0, 1.0, 2.0, 2.0],
    "rows": [[0], [0], [1], [1], [2], [2]],
    "far away": [0, 0, 1, 1, 2**40, 2**40],
    "two identities": [0, 0, 0, 1, 1, 1],
}


@pytest.mark.parametrize("tracks", TRACKS.values(), ids=TRACKS)
def test_tracks_of_others_are_checked(tracks: list[Any], tmp_path: Path) -> None:
    """Files of features come from strangers, too: `harness validate` reads them."""
    rows = torch.eye(6)
    ids, cams = np.array([0, 0, 1, 1, 2, 2]), np.arange(6) // 2
    truth = GroundTruth(ids[:2], ids, 1 + cams[:2], cams, tracks=np.arange(6) // 2)
    kept_features.save(tmp_path, "train", rows[:2], rows, truth, "")
    found = kept_features.load(tmp_path, "train")
    assert found is not None
    result = score(found.query, found.gallery, found.ground_truth, EvaluationProtocol())
    assert result.gallery == 3
    path = kept_features.path_of(tmp_path, "train")
    with np.load(path) as arrays:
        kept = dict(arrays)
    np.savez(path, **{**kept, "tracks": np.array(tracks)})
    with pytest.raises(DataError, match="cannot be read"):
        kept_features.load(tmp_path, "train")


def test_without_cameras_only_the_query_itself_is_removed() -> None:
    """By the slow oracle; the query images are in the gallery, by name."""
    rng = np.random.default_rng(0)
    features = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(30, 8))), dim=1)
    features = features.float()
    ids, cams = np.arange(30) % 5, np.arange(30) % 3
    names = [f"image {place}" for place in range(30)]
    sides = GroundTruth(ids[:10], ids, cams[:10], cams, names[:10], names)
    distances = (2 - 2 * features[:10] @ features.T).clamp(min=0).numpy()
    plain = (ids[:10].tolist(), ids.tolist())
    for rule, known in (
        (EvaluationProtocol(cameras=False), (None, None, names[:10], names)),
        (EvaluationProtocol(), (cams[:10].tolist(), cams.tolist(), names[:10], names)),
    ):
        ap, _, first = rank_slowly(distances, *plain, *known)
        found = score(features[:10], features, sides, rule)
        np.testing.assert_allclose(found.ap, ap)
        np.testing.assert_array_equal(found.first_match_rank, first)
