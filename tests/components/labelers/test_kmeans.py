from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from harness.components.labelers import KMeans
from harness.core import errors
from harness.core.errors import ConfigError, HarnessError
from tests.components.labelers.cases import blobs


@pytest.fixture(params=["faiss", "scikit-learn"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One of the libraries, the other hidden or not looked at."""
    if request.param == "faiss":
        pytest.importorskip("faiss")
    else:
        monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(errors, "_noticed", set())
    return str(request.param)


def test_separate_clusters_are_found(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    clusters = np.repeat(np.arange(4), 10)
    labeler = KMeans(clusters=4, restarts=20)
    found = labeler.label(blobs(4, 10, spread=0.05)[:, None])
    pairs = set(zip(found.labels.tolist(), clusters.tolist(), strict=True))
    assert len(pairs) == 4, "one to one"
    assert found.labels.dtype == torch.int64 and found.labels.shape == (40,)
    assert (found.stats["clusters"], found.stats["outliers"]) == (4, 0)
    assert found.stats["faiss"] == (library == "faiss")
    assert found.stats["seconds_cluster"] > 0
    labeler.label(blobs(4, 10, spread=0.05)[:, None])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and f"by {library}" in said[0], "once, and which it was"


@pytest.mark.usefixtures("library")
def test_equal_features_give_equal_labels_and_seeds_differ() -> None:
    features = blobs(60, 1)[:, None]
    one, two = (KMeans(clusters=12, seed=3).label(features).labels for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(KMeans(clusters=12, seed=4).label(features).labels, one)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("distinct", [1, 3])
def test_empty_clusters_leave_no_gaps(distinct: int) -> None:
    features = blobs(distinct, 1).repeat(20, 1)[:, None]
    found = KMeans(clusters=7).label(features)
    assert torch.equal(torch.unique(found.labels), torch.arange(distinct))
    assert found.clusters == distinct


@pytest.mark.usefixtures("library")
def test_as_many_clusters_as_images() -> None:
    found = KMeans(clusters=12).label(blobs(12, 1)[:, None])
    assert found.clusters == 12


@pytest.mark.usefixtures("library")
def test_views() -> None:
    """The global view has no clusters; the mean of the views does."""
    known = blobs(4, 10, spread=0.05)
    features = torch.stack([blobs(40, 1, seed=7), known, known], dim=1)
    clusters = np.repeat(np.arange(4), 10)

    def agree(views: Any) -> bool:
        labels = KMeans(clusters=4, restarts=20, views=views).label(features).labels
        return len(set(zip(labels.tolist(), clusters.tolist(), strict=True))) == 4

    assert agree("mean") and not agree("global")


def test_spherical_centers_have_unit_length(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = pytest.importorskip("faiss")
    original, seen = faiss.Kmeans.train, []

    def train(self: Any, x: np.ndarray) -> None:
        original(self, x)
        seen.append(np.linalg.norm(self.centroids, axis=1))

    monkeypatch.setattr(faiss.Kmeans, "train", train)
    for spherical in (True, False):
        KMeans(clusters=4, spherical=spherical).label(blobs(20, 2, spread=0.3)[:, None])
    np.testing.assert_allclose(seen[0], 1, atol=1e-5)
    assert (seen[1] < 0.99).any()


def test_spherical_needs_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match="needs faiss") as raised:
        KMeans(spherical=True)
    assert "spherical=false" in raised.value.hint


@pytest.mark.parametrize(
    ("features", "cause"),
    [
        (torch.full((40, 1, 4), float("nan")), "not finite"),
        (torch.zeros(40, 1, 4), "are zero"),
        (torch.ones(11, 1, 4) / 2, "11 images cannot form 12 clusters"),
        (torch.ones(40, 4) / 2, r"must be \(N, V, D\)"),
    ],
)
def test_bad_features_are_refused(features: torch.Tensor, cause: str) -> None:
    with pytest.raises(HarnessError, match=cause) as raised:
        KMeans(clusters=12).label(features)
    if "cannot be" in cause:
        assert "labeler.clusters=11" in raised.value.hint


def test_describe_names_what_one_would_change() -> None:
    assert KMeans().describe() == "500 clusters, 50 iterations, 1 restarts, global view"
