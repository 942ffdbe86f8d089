"""Embeddings as figures: projections, and styles of clusters."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from harness.core.errors import ConfigError
from harness.results.figures.embedding import Embedding, draw, match_clusters, project


def test_clusters_take_the_style_of_their_identity() -> None:
    who = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2])
    labels = np.array([7, 7, 7, 3, 3, 5, 5, 5, 7, -1])
    assert match_clusters(labels, who) == {7: (0, True), 3: (0, False), 5: (1, True)}


def test_projection_keeps_groups_together_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.eye(3, 16), 12, 0) + rng.normal(0, 0.01, (36, 16))
    points = project(groups.astype(np.float32), "tsne", 0)
    assert (points == project(groups.astype(np.float32), "tsne", 0)).all()
    centers = points.reshape(3, 12, 2).mean(1)
    nearest = np.linalg.norm(points[:, None] - centers, axis=2).argmin(1)
    assert (nearest == np.repeat(np.arange(3), 12)).all()


def test_umap_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        project(np.eye(9, dtype=np.float32), "umap", 0)
    assert "umap-learn" in (caught.value.hint or "")


def test_without_a_labeler_there_are_identities_alone() -> None:
    rng = np.random.default_rng(0)
    picture = draw(Embedding(rng.normal(size=(9, 2)), np.arange(9) // 3, None), "title")
    assert len(picture.axes) == 1
