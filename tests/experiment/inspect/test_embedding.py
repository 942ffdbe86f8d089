"""Embeddings: which identities, which styles, which labels."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.core.errors import ConfigError
from harness.core.progress import Reporter
from harness.experiment.inspect.embedding import choose_identities, embed
from harness.experiment.inspect.trained_stage import TrainedStage
from harness.results.figures.embedding import Embedding, draw, match_clusters, project
from harness.results.store import Run


def trained_stage(run: Run, place: Path, stage: str = "student") -> TrainedStage:
    data = place / "data"
    return TrainedStage(run, stage, data, data / ".harness", torch.device("cpu"), Reporter())


def test_clusters_take_the_look_of_their_choose_identities() -> None:
    who = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 2])
    labels = np.array([7, 7, 7, 3, 3, 5, 5, 5, 7, -1])
    assert match_clusters(labels, who) == {7: (0, True), 3: (0, False), 5: (1, True)}


def test_identities_have_four_images_or_more() -> None:
    truth = np.array([5] * 4 + [6] * 3 + [7] * 9 + [-1] * 20)
    assert choose_identities(truth, 16, 0).tolist() == [*range(4), *range(7, 16)]
    assert len(choose_identities(truth, 1, 0)) in (4, 9)
    with pytest.raises(ConfigError, match="not known"):
        choose_identities(np.full(5, -1), 3, 0)


def test_projection_keeps_groups_together_and_is_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.eye(3, 16), 12, 0) + rng.normal(0, 0.01, (36, 16))
    points = project(groups.astype(np.float32), "tsne", 0)
    assert (points == project(groups.astype(np.float32), "tsne", 0)).all()
    centres = points.reshape(3, 12, 2).mean(1)
    nearest = np.linalg.norm(points[:, None] - centres, axis=2).argmin(1)
    assert (nearest == np.repeat(np.arange(3), 12)).all()


def test_umap_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match="not installed") as caught:
        project(np.eye(9, dtype=np.float32), "umap", 0)
    assert "umap-learn" in (caught.value.hint or "")


def test_labels_are_the_labeler_s(run: Run, place: Path) -> None:
    it = trained_stage(run, place)
    found = embed(it, identities=8)
    assert found.labels is not None
    assert len(found.points) == len(found.identities) == len(found.labels)
    assert np.unique(found.identities).tolist() == list(range(8))
    image_cache = it.training.train_cache
    assert image_cache is not None
    features = it.features(image_cache.images, "training")
    again = it.labels(features)
    assert again is not None and "eps" in again[1]
    assert found.outliers >= (again[0] < 0).sum()
    assert found.clusters <= again[0].max() + 1
    picture = draw(found, "title")
    assert [axes.get_title(loc="left").split(" (")[0] for axes in picture.axes] == [
        "by cluster", "by identity",
    ]  # fmt: skip


def test_without_a_labeler_there_are_identities_alone() -> None:
    rng = np.random.default_rng(0)
    picture = draw(Embedding(rng.normal(size=(9, 2)), np.arange(9) // 3, None), "title")
    assert len(picture.axes) == 1


@pytest.mark.parametrize(("count", "method"), [(1, "tsne"), (49, "tsne"), (8, "pca")])
def test_wrong_options(run: Run, place: Path, count: int, method: str) -> None:
    with pytest.raises(ConfigError):
        embed(trained_stage(run, place), method, count)
