"""The evaluator: what training gets from it, and which test parts it refuses."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.core.errors import DataError
from harness.core.progress import Reporter
from harness.data.image_files import ImageFiles
from harness.data.types import ReIDData, Split
from harness.evaluation.evaluator import Evaluator, check_matches, make_evaluator, without_junk
from harness.experiment.compose import compose
from harness.experiment.stages import load_data
from tests.tiny import tiny


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    folder = tmp_path_factory.mktemp("evaluator")
    return make_evaluator(
        load_data(compose(tiny(folder, "method=direct_transfer"))),
        (32, 16),
        folder,
        train=True,
        on_bad_image="error",
        device=torch.device("cpu"),
        precision="fp32",
        reporter=Reporter(),
    )


def split(identities: list[int], cameras: list[int] | None = None) -> Split:
    files = ImageFiles(Path("nowhere"), [f"{i}.jpg" for i in range(len(identities))])
    return Split(files, np.array(identities), None if cameras is None else np.array(cameras))


def test_training_gets_images_and_cameras_alone(evaluator: Evaluator) -> None:
    assert {field.name for field in fields(evaluator.unlabelled(True))} == {"images", "cameras"}
    assert evaluator.unlabelled(False).cameras is None
    cameras = evaluator.unlabelled(True).cameras
    assert cameras is not None
    np.testing.assert_array_equal(cameras.numpy(), evaluator.data.train.cameras)


def test_cluster_metrics_need_identities(evaluator: Evaluator) -> None:
    identities = evaluator.data.train.identities
    found = evaluator.cluster_metrics(torch.from_numpy(identities.copy()))
    assert found["ari"] == found["purity"] == 1.0
    unknown = split([-1, -1])
    evaluator = object.__new__(Evaluator)
    evaluator.data = ReIDData("unknown", unknown, unknown, unknown)
    assert evaluator.cluster_metrics(torch.tensor([0, 1])) == {}


def test_junk_is_not_ranked() -> None:
    assert without_junk(split([-1, 3, 0, -1])).identities.tolist() == [3, 0]


@pytest.mark.parametrize(
    ("query", "gallery"),
    [
        (split([1, 2]), split([3, 4])),
        (split([1, 2], [0, 0]), split([1, 2], [0, 0])),  # only images of the query's own camera
        (split([1], [0]), split([1, 2], [0, 1])),
    ],
)
def test_a_test_part_without_matches_is_refused(query: Split, gallery: Split) -> None:
    with pytest.raises(DataError, match="No query of made has a correct gallery image"):
        check_matches(query, gallery, "made")


def test_one_match_is_enough() -> None:
    check_matches(split([1, 2]), split([3, 2]), "made")
    check_matches(split([1, 2], [0, 0]), split([1, 2], [0, 1]), "made")
