from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from harness.components.labelers import Infomap, infomap
from harness.components.labelers.infomap import _numbered
from harness.core.errors import ConfigError, HarnessError
from tests.components.labelers.cases import blobs


def test_a_missing_package_is_refused_when_built(monkeypatch: pytest.MonkeyPatch) -> None:
    script = infomap._SCRIPT.replace("from infomap import", "from no_such_infomap import")
    monkeypatch.setattr(infomap, "_SCRIPT", script)
    with pytest.raises(ConfigError, match="No module named 'no_such_infomap'") as raised:
        Infomap()
    assert 'pip install "usl-reid-harness[infomap]"' in raised.value.hint


def test_it_needs_as_many_images_as_neighbors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only as many as its smallest cluster."""
    monkeypatch.setattr(infomap, "_communities", lambda *_, **__: None)
    labeler = Infomap(k1=15, min_images=4)
    assert labeler.min_images == 15
    assert labeler.describe() == "min_similarity 0.5, min_images 4, k1 15"


def test_labels_are_numbered_by_first_image_and_small_ones_are_outliers() -> None:
    modules = np.array([9, -1, 2, 2, 9, 2, 9, 5, 5, -2])
    np.testing.assert_array_equal(_numbered(modules, 3), [0, -1, 1, 1, 0, 1, 0, -1, -1, -1])
    np.testing.assert_array_equal(_numbered(modules, 1), [0, 1, 2, 2, 0, 2, 0, 3, 3, 4])
    np.testing.assert_array_equal(_numbered(modules, 11), np.full(10, -1))


class TestWithThePackage:
    @pytest.fixture(autouse=True)
    def package(self) -> None:
        if find_spec("infomap") is None:  # not imported: see test_beside_faiss
            pytest.skip("the package infomap is not installed")

    def test_separate_clusters_are_found(self) -> None:
        order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
        features = blobs(4, 8, spread=0.05)[order][:, None]
        found = Infomap(k1=8).label(features)
        clusters = order // 8
        first = {int(label): i for i, label in reversed(list(enumerate(clusters)))}
        by_first = sorted(first, key=lambda label: first[label])
        assert found.labels.tolist() == [by_first.index(int(label)) for label in clusters]
        assert found.stats["links"] == 32 * 7
        assert (found.stats["clusters"], found.stats["outliers"]) == (4, 0)
        assert {"seconds_search", "seconds_cluster"} <= found.stats.keys()

    def test_links_need_the_similarity(self) -> None:
        """Three directions 45° apart: 0.707 links neighbours, never the first and the last."""
        half = 0.5**0.5
        rows = torch.tensor([[1.0, 0.0], [half, half], [0.0, 1.0]])
        labeler = Infomap(k1=3, min_similarity=0.7, min_images=1)
        sources, targets, weights = labeler._links(rows, torch.tensor([[0, 1, 2], [1, 0, 2],
                                                                      [2, 1, 0]]))  # fmt: skip
        assert list(zip(sources, targets, strict=True)) == [(0, 1), (1, 0), (1, 2), (2, 1)]
        np.testing.assert_allclose(weights, half, atol=1e-6)

    def test_links_have_a_direction(self) -> None:
        """k1 = 2: only the nearest other image is linked to, and needs not link back."""
        angles = torch.tensor([0.0, 0.3, 0.5])
        features = torch.stack([angles.cos(), angles.sin()], dim=1)[:, None]
        found = Infomap(k1=2, min_images=1).label(features)
        assert found.stats["links"] == 3

    def test_small_communities_are_outliers(self) -> None:
        features = torch.cat([blobs(2, 6, spread=0.02), blobs(1, 3, spread=0.02, seed=5)])
        found = Infomap(k1=4).label(features[:, None])
        assert found.labels.tolist() == [0] * 6 + [1] * 6 + [-1] * 3

    @pytest.mark.parametrize(("min_images", "outliers"), [(4, 30), (1, 0)])
    def test_all_outliers(self, min_images: int, outliers: int) -> None:
        features = torch.eye(30)[:, None]
        found = Infomap(k1=5, min_images=min_images).label(features)
        assert found.outliers == found.stats["outliers"] == outliers
        assert found.clusters == 30 - outliers
        assert found.stats["links"] == 0

    def test_identical_images_are_one_cluster(self) -> None:
        found = Infomap().label(blobs(1, 1).expand(40, -1)[:, None])
        assert (found.clusters, found.outliers) == (1, 0)

    def test_one_cluster(self) -> None:
        found = Infomap(k1=20).label(blobs(1, 20, spread=0.01)[:, None])
        assert (found.clusters, found.outliers) == (1, 0)

    def test_beside_faiss(self) -> None:
        """In one process, the two packages take each other's iterators for their own and crash."""
        faiss = pytest.importorskip("faiss")
        assert faiss.IndexFlatL2(4).ntotal == 0
        features = blobs(4, 8, spread=0.05)[:, None]
        found = [Infomap(k1=8, search=search).label(features) for search in ("faiss", "torch")]
        assert torch.equal(found[0].labels, found[1].labels)
        assert found[0].clusters == 4

    def test_a_failure_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        labeler = Infomap(k1=8)
        monkeypatch.setattr(infomap, "_SCRIPT", "raise SystemExit('no such luck')")
        with pytest.raises(HarnessError, match="no such luck"):
            labeler.label(blobs(4, 8)[:, None])
        with pytest.raises(ConfigError, match="no such luck"):
            Infomap()

    def test_equal_features_give_equal_labels(self) -> None:
        features = blobs(20, 6, spread=0.4)[:, None]
        labels = [Infomap(k1=8).label(features).labels for _ in range(2)]
        assert torch.equal(labels[0], labels[1])

    @pytest.mark.parametrize(
        ("features", "cause"),
        [
            (torch.full((40, 1, 4), float("nan")), "not finite"),
            (torch.zeros(40, 1, 4), "are zero"),
            (torch.ones(14, 1, 4) / 2, "14 images are too few"),
        ],
    )
    def test_bad_features_are_refused(self, features: torch.Tensor, cause: str) -> None:
        with pytest.raises(HarnessError, match=cause):
            Infomap().label(features)

    def test_describe_names_what_one_would_change(self) -> None:
        assert Infomap().describe() == "min_similarity 0.5, min_images 4, k1 15"
