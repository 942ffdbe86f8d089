"""Ranked lists show what was measured: same queries, same order, same images left out."""

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
from harness.experiment.figures.subject import Subject
from harness.results.figures.ranked import choose, draw, nearest, rankings
from harness.results.palette import RIGHT, WRONG
from harness.results.store import Run


@pytest.fixture(scope="module")
def subject(run: Run, place: Path) -> Subject:
    return Subject(
        run, "student", place / "data", place / "data" / ".harness", torch.device("cpu"), Reporter()
    )


def test_lists_are_those_that_were_measured(subject: Subject, run: Run) -> None:
    with np.load(run.folder / "per_query.npz") as arrays:
        ap, first = arrays["student_ap"], arrays["student_first_match_rank"]
    everyone = ",".join(map(str, range(len(ap))))
    found = rankings(subject, everyone, top=10_000)
    assert [ranking.query for ranking in found] == list(range(len(ap)))
    for ranking in found:
        ranks = np.flatnonzero(ranking.right) + 1
        mine = float(np.mean(np.arange(1, len(ranks) + 1) / ranks))
        assert mine == pytest.approx(float(ap[ranking.query]), abs=1e-6)
        assert ranking.ap == pytest.approx(mine, abs=1e-6)
        assert ranks[0] == first[ranking.query]


def test_what_the_protocol_removes_is_not_shown(subject: Subject) -> None:
    q, g = subject.test.data.query, subject.test.data.gallery
    assert q.cameras is not None and g.cameras is not None
    for ranking in rankings(subject, "worst", count=5, top=10_000):
        same = g.identities[ranking.gallery] == q.identities[ranking.query]
        assert (ranking.right == same).all()
        seen = g.cameras[ranking.gallery] == q.cameras[ranking.query]
        assert not (same & seen).any()
        left = (g.identities == q.identities[ranking.query]) & (
            g.cameras == q.cameras[ranking.query]
        )
        assert len(ranking.gallery) == len(g.identities) - left.sum()


def test_worst_best_and_random(subject: Subject) -> None:
    aps = [ranking.ap for ranking in rankings(subject, "0,1,2,3,4,5,6,7,8,9")]
    worst, best = (rankings(subject, which, count=3, top=2) for which in ("worst", "best"))
    assert worst[0].ap == min(r.ap for r in [*worst, *best]) <= min(aps)
    assert best[0].ap >= max(aps)
    assert all(len(ranking.gallery) == 2 for ranking in worst)
    drawn = [[r.query for r in rankings(subject, "random", 4, seed=seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


class Names(ImageSource):
    """Images that have names only."""

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
    names = Names(["q.jpg", *(f"g{i}.jpg" for i in range(1, len(gallery)))])
    here = None if cameras is None else np.zeros(1, np.int64)
    query = Split(Names(["q.jpg"]), np.ones(1, np.int64), here)
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
    assert choose(it, ap, "q.jpg", 8, 0) == [0] == choose(it, ap, "0", 8, 0)
    assert choose(it, np.array([np.nan]), "worst", 8, 0) == [], "it has nothing to find"
    for wrong in ("1", "-1", "worse", "q.jpg,g1.jpg"):
        with pytest.raises(ConfigError, match="no query") as caught:
            choose(it, ap, wrong, 8, 0)
        assert "q.jpg" in (caught.value.hint or "")


def test_picture(subject: Subject) -> None:
    found = rankings(subject, "best", count=2, top=3)
    picture = draw(subject, found, "title")
    assert len(picture.axes) == 2 * 4
    words = [axes.get_title() for axes in picture.axes]
    assert words[0] == f"AP {100 * found[0].ap:.1f}"
    for axes, right in zip(picture.axes[1:4], found[0].right, strict=True):
        sign, colour, line = ("✓", RIGHT, "-") if right else ("✗", WRONG, None)
        assert axes.get_title().endswith(sign), "colour alone says nothing to some"
        frame = axes.spines["left"]
        assert to_hex(frame.get_edgecolor()) == colour
        assert (frame.get_linestyle() == "-") == (line == "-")
        assert axes.get_xlabel().startswith("cam ")
