from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.components.labelers import JaccardDBSCAN, distance_rows
from harness.components.labelers.timer import Timer
from harness.core.errors import ConfigError, HarnessError
from tests.components.labelers.cases import blobs, golden
from tests.oracles import jaccard as oracle


@pytest.mark.parametrize("search", ["auto", "faiss"])
def test_mskd_labels_from_features(search: Any) -> None:
    if search == "faiss":
        pytest.importorskip("faiss")
    case = golden("mskd_pipeline")
    features = torch.from_numpy(case["features"]).transpose(0, 1)
    labeler = JaccardDBSCAN(
        eps=float(case["eps"]),
        min_samples=int(case["min_samples"]),
        k1=int(case["k1"]),
        k2=int(case["k2"]),
        part_weight=float(case["lambda1"]),
        search=search,
    )
    found = labeler.label(features)
    np.testing.assert_array_equal(found.labels, case["labels"])
    assert found.labels.dtype == torch.int64
    assert found.stats["clusters"] == found.clusters == case["labels"].max() + 1
    assert found.stats["outliers"] == found.outliers == (case["labels"] < 0).sum()


@pytest.mark.parametrize(("k1", "eps"), [(30, 0.5), (30, 0.6), (30, 0.45), (20, 0.5), (20, 0.6)])
def test_one_view_labels_from_features(k1: int, eps: float) -> None:
    features = torch.from_numpy(golden(f"jaccard_k{k1}_k2_6")["features"])[:, None]
    expected = golden("dbscan")[f"labels_k{k1}_eps0{eps * 100:.0f}"]
    np.testing.assert_array_equal(JaccardDBSCAN(eps=eps, k1=k1).label(features).labels, expected)


def test_without_part_weight_only_the_global_view_counts() -> None:
    features = torch.stack([blobs(5, 10), blobs(50, 1), blobs(50, 1, seed=1)], dim=1)
    alone = JaccardDBSCAN(k1=12).label(features[:, :1]).labels
    np.testing.assert_array_equal(JaccardDBSCAN(k1=12).label(features).labels, alone)
    fused = JaccardDBSCAN(k1=12, part_weight=0.4).label(features).labels
    assert not torch.equal(fused, alone)


def test_steps_are_timed() -> None:
    stats = JaccardDBSCAN(k1=8).label(blobs(4, 8)[:, None]).stats
    assert {name for name in stats if name.startswith("seconds_")} == {
        "seconds_search",
        "seconds_jaccard",
        "seconds_cluster",
    }
    assert all(0 < stats[name] < 60 for name in stats if name.startswith("seconds_"))


def test_separate_clusters_are_found() -> None:
    labels = JaccardDBSCAN(k1=8, k2=3).label(blobs(4, 8, spread=0.05)[:, None]).labels
    np.testing.assert_array_equal(labels, np.repeat(np.arange(4), 8))


def test_one_cluster() -> None:
    found = JaccardDBSCAN(k1=20).label(blobs(1, 20, spread=0.01)[:, None])
    assert found.clusters == 1
    assert found.outliers == 0


def test_all_outliers() -> None:
    found = JaccardDBSCAN(eps=0.05, k1=5, k2=1).label(blobs(30, 1)[:, None])
    assert found.clusters == 0
    assert found.outliers == 30


def test_the_radius_of_one_takes_in_everything() -> None:
    found = JaccardDBSCAN(eps=1.0, k1=5, k2=1).label(blobs(30, 1)[:, None])
    assert (found.clusters, found.outliers) == (1, 0)


def test_identical_images_are_one_cluster() -> None:
    found = JaccardDBSCAN(k1=10).label(blobs(1, 1).expand(40, -1)[:, None])
    assert (found.clusters, found.outliers) == (1, 0)


@pytest.mark.parametrize(
    ("features", "cause"),
    [
        (torch.full((40, 1, 4), float("nan")), "not finite"),
        (torch.zeros(40, 1, 4), "are zero"),
        (torch.ones(29, 1, 4) / 2, "29 images are too few"),
        (torch.ones(40, 4) / 2, r"must be \(N, V, D\)"),
    ],
)
def test_bad_features_are_refused(features: torch.Tensor, cause: str) -> None:
    with pytest.raises(HarnessError, match=cause):
        JaccardDBSCAN().label(features)


def test_k2_is_at_most_k1() -> None:
    with pytest.raises(ConfigError, match=r"labeler\.k2=6 must not be larger") as raised:
        JaccardDBSCAN(k1=5, k2=6)
    assert raised.value.hint


@pytest.mark.parametrize(("views", "part_weight"), [(1, 0.15), (6, 0.2)])
def test_views_and_part_weight_have_to_fit(views: int, part_weight: float) -> None:
    features = torch.stack([blobs(4, 10, seed=v) for v in range(views)], dim=1)
    with pytest.raises(ConfigError) as raised:
        JaccardDBSCAN(part_weight=part_weight).label(features)
    assert "part_weight" in raised.value.hint


def test_describe_names_what_one_would_change() -> None:
    assert JaccardDBSCAN().describe() == "eps 0.6, min_samples 4, k1 30, k2 6"
    assert JaccardDBSCAN(part_weight=0.15).describe().endswith("part_weight 0.15")


@pytest.mark.parametrize("count", [60, 300])  # by torch, and by compiled kernels if there are any
def test_classical_lists_have_one_neighbor_more(count: int) -> None:
    x = blobs(count // 10, 10, dim=8, spread=0.6)
    labeler = JaccardDBSCAN(k1=9, k2=4, classical_lists=True)
    encodings = labeler.encodings(x[:, None], Timer(x))
    d = oracle.squared_distances(x.numpy())
    expected = oracle.jaccard(oracle.encoding(d, oracle.neighbours(d, 10), k1=9, k2=4))
    found = distance_rows(encodings, torch.arange(count))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    others = (oracle.distance(x.numpy(), 9, 4), oracle.distance(x.numpy(), 10, 4))
    assert all(np.abs(found.numpy() - other).max() > 0.01 for other in others)


def test_classical_lists_need_one_image_more() -> None:
    labeler = JaccardDBSCAN(k1=9, k2=4, classical_lists=True)
    assert labeler.min_images == 10 and "k1 9 + 1," in labeler.describe()
    assert labeler.label(blobs(1, 10)[:, None]).clusters == 1
    with pytest.raises(HarnessError, match="9 images are too few"):
        labeler.label(blobs(1, 9)[:, None])
