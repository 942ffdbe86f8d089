"""Ranked lists are those of the evaluation: same queries, order and images left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from harness.core.errors import ConfigError
from harness.core.progress import Reporter
from harness.data.image_source import ImageSource
from harness.data.types import ReIDData, Split
from harness.evaluation.evaluator import Evaluator
from harness.evaluation.protocol import EvaluationProtocol
from harness.experiment.inspect.rankings import choose, nearest, rankings
from harness.experiment.inspect.trained_stage import TrainedStage
from harness.results.figures.ranked import Images, draw
from harness.results.palette import RIGHT, WRONG
from harness.results.store import Run


@pytest.fixture(scope="module")
def stage(run: Run, place: Path) -> TrainedStage:
    return TrainedStage(
        run, "student", place / "data", place / "data" / ".harness", torch.device("cpu"), Reporter()
    )


def test_lists_are_those_that_were_measured(stage: TrainedStage, run: Run) -> None:
    with np.load(run.folder / "per_query.npz") as arrays:
        ap, first = arrays["student_ap"], arrays["student_first_match_rank"]
    everyone = ",".join(map(str, range(len(ap))))
    found = rankings(stage, everyone, top=10_000)
    assert [ranking.query for ranking in found] == list(range(len(ap)))
    for ranking in found:
        ranks = np.flatnonzero(ranking.right) + 1
        mine = float(np.mean(np.arange(1, len(ranks) + 1) / ranks))
        assert mine == pytest.approx(float(ap[ranking.query]), abs=1e-6)
        assert ranking.ap == pytest.approx(mine, abs=1e-6)
        assert ranks[0] == first[ranking.query] == ranking.first_match


def test_images_that_the_protocol_removes_are_not_shown(stage: TrainedStage) -> None:
    q, g = stage.test.data.query, stage.test.data.gallery
    assert q.cameras is not None and g.cameras is not None
    for ranking in rankings(stage, "worst", count=5, top=10_000):
        same = g.identities[ranking.gallery] == q.identities[ranking.query]
        assert (ranking.right == same).all()
        seen = g.cameras[ranking.gallery] == q.cameras[ranking.query]
        assert not (same & seen).any()
        left = (g.identities == q.identities[ranking.query]) & (
            g.cameras == q.cameras[ranking.query]
        )
        assert len(ranking.gallery) == len(g.identities) - left.sum()


def test_worst_best_and_random(stage: TrainedStage) -> None:
    aps = [ranking.ap for ranking in rankings(stage, "0,1,2,3,4,5,6,7,8,9")]
    worst, best = (rankings(stage, which, count=3, top=2) for which in ("worst", "best"))
    assert worst[0].ap == min(r.ap for r in [*worst, *best]) <= min(aps)
    assert best[0].ap >= max(aps)
    assert all(len(ranking.gallery) == 2 for ranking in worst)
    drawn = [[r.query for r in rankings(stage, "random", 4, seed=seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


class Names(ImageSource):
    """Images with names only."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> Image.Image:
        raise OSError

    def fingerprint(self) -> str:
        return ""


def evaluator(
    gallery: list[int], cameras: list[int] | None = None, tracks: list[int] | None = None
) -> Evaluator:
    """One query, `q.jpg`, of identity 1 and camera 0, and a gallery."""
    names = Names(["query/q.jpg", *(f"g{i}.jpg" for i in range(1, len(gallery)))])
    here = None if cameras is None else np.zeros(1, np.int64)
    query = Split(Names(["query/q.jpg"]), np.ones(1, np.int64), here)
    array = None if cameras is None else np.array(cameras)
    split = Split(names, np.array(gallery), array, None if tracks is None else np.array(tracks))
    data = ReIDData("made up", split, query, split)
    cpu = torch.device("cpu")
    return Evaluator(data, "", None, None, None, cpu, "fp32", EvaluationProtocol(), Reporter())


DISTANCES = np.array([0.0, 0.5, 0.1, 0.4, 0.2])


def test_same_camera_and_junk_are_removed() -> None:
    images, right = nearest(evaluator([1, 1, -1, 2, 1], [0, 1, 1, 0, 2]), 0, DISTANCES, 10)
    assert images.tolist() == [4, 3, 1] and right.tolist() == [True, False, True]
    assert nearest(evaluator([1, 1, -1, 2, 1], [0, 1, 1, 0, 2]), 0, DISTANCES, 2)[0].tolist() == [
        4,
        3,
    ]


def test_without_cameras_only_the_query_itself_is_removed() -> None:
    images, right = nearest(evaluator([1, 1, 2, 2, 1]), 0, DISTANCES, 10)
    assert images.tolist() == [2, 4, 3, 1] and right.tolist() == [False, True, False, True]


def test_of_a_track_its_nearest_image_is_shown() -> None:
    it = evaluator([2, 2, 1, 1, 3], [1, 1, 1, 1, 1], tracks=[0, 0, 1, 1, 2])
    images, right = nearest(it, 0, DISTANCES, 10)
    assert images.tolist() == [0, 2, 4] and right.tolist() == [False, True, False]


def test_equal_distances_come_in_the_gallery_s_order() -> None:
    images, _ = nearest(evaluator([2, 1, 2, 1, 2], [1] * 5), 0, np.zeros(5), 10)
    assert images.tolist() == [0, 1, 2, 3, 4], "as evaluation breaks ties"


def test_queries_are_named_or_counted() -> None:
    it = evaluator([1, 2])
    ap = np.array([0.5])
    for named in ("query/q.jpg", "q.jpg", "0"):
        assert choose(it, ap, named, 8, 0) == [0]
    assert choose(it, np.array([np.nan]), "worst", 8, 0) == [], "it has nothing to find"
    for wrong in ("1", "-1", "worse", "q.jpg,g1.jpg"):
        with pytest.raises(ConfigError, match="no query") as caught:
            choose(it, ap, wrong, 8, 0)
        assert "q.jpg" in (caught.value.hint or "")


def test_picture(stage: TrainedStage) -> None:
    found = rankings(stage, "best", count=2, top=3)
    q, g = stage.test.query_cache, stage.test.gallery_cache
    assert q is not None and g is not None
    data = stage.test.data
    query = Images(q.images, data.query.images.name, data.query.cameras)
    gallery = Images(g.images, lambda index: f"folder/{index:040}.jpg", data.gallery.cameras)
    picture = draw(query, gallery, found, "title")
    assert len(picture.axes) == 2 * 4
    assert picture.axes[0].get_title() == (
        f"AP {100 * found[0].ap:.1f}\nfirst ✓ at {found[0].first_match}"
    )
    name = data.query.images.name(found[0].query).rsplit("/", 1)[-1]
    assert picture.axes[0].get_xlabel().split("\ncam ")[0] in (name, f"{name[:8]}…{name[-8:]}")
    for axes, image, right in zip(picture.axes[1:4], found[0].gallery, found[0].right, strict=True):
        sign, color, line = ("✓", RIGHT, "-") if right else ("✗", WRONG, None)
        assert axes.get_title().endswith(sign), "color is not the only cue"
        frame = axes.spines["left"]
        assert to_hex(frame.get_edgecolor()) == color
        assert (frame.get_linestyle() == "-") == (line == "-")
        file_name, camera = axes.get_xlabel().split("\n")
        assert file_name == f"00000000…{image:04}.jpg" and camera.startswith("cam ")
