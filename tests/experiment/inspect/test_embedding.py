"""Embeddings: which identities, which styles, which labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.core.errors import ConfigError
from harness.core.progress import Reporter
from harness.experiment.inspect.embedding import choose_identities, embed
from harness.experiment.inspect.trained_stage import TrainedStage
from harness.experiment.run import run_experiment
from harness.results.figures.embedding import draw
from harness.results.store import Run
from tests.tiny import tiny_config


def trained_stage(run: Run, place: Path, stage: str = "student") -> TrainedStage:
    data = place / "data"
    return TrainedStage(run, stage, data, data / ".harness", torch.device("cpu"), Reporter())


def test_identities_have_four_images_or_more() -> None:
    ground_truth = np.array([5] * 4 + [6] * 3 + [7] * 9 + [-1] * 20)
    assert choose_identities(ground_truth, 16, 0).tolist() == [*range(4), *range(7, 16)]
    assert len(choose_identities(ground_truth, 1, 0)) in (4, 9)
    with pytest.raises(ConfigError, match="not known"):
        choose_identities(np.full(5, -1), 3, 0)


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


def test_a_stage_that_learns_from_identities_has_no_labels(tmp_path: Path) -> None:
    """Its labeler takes the place of the one at the top, and nothing of that one's options."""
    run = run_experiment(tiny_config(tmp_path, "method=mmt/uda", "train.epochs=1"))
    assert list(run.record["stages"]) == ["source", "source_2", "train"]
    source = embed(trained_stage(run, tmp_path, "source"), identities=4)
    assert source.labels is None and len(np.unique(source.identities)) == 4
    assert embed(trained_stage(run, tmp_path, "train"), identities=4).labels is not None


@pytest.mark.parametrize(("count", "method"), [(1, "tsne"), (49, "tsne"), (8, "pca")])
def test_wrong_options(run: Run, place: Path, count: int, method: str) -> None:
    with pytest.raises(ConfigError):
        embed(trained_stage(run, place), method, count)
