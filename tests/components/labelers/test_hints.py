"""Too few clusters: every labeler names the cure that fits the labels, at both ends."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.components.labelers import BottomUp, Infomap, JaccardDBSCAN, KMeans, SelfPaced
from harness.core.interfaces import PseudoLabeler, PseudoLabels
from tests.components.labelers.cases import blobs

SMALL: dict[str, Any] = {"k1": 8, "k2": 3}
#: one cluster of 40 images; 40 images without neighbors; 40 equal images
ONE, NONE, EQUAL = blobs(1, 40, spread=0.01)[:, None], torch.eye(40)[:, None], torch.ones(40, 1, 1)


def made(labels: Sequence[int]) -> PseudoLabels:
    return PseudoLabels(torch.tensor(labels))


@pytest.mark.parametrize(
    ("labeler", "features", "cure"),
    [
        (JaccardDBSCAN(**SMALL, eps=1.0), ONE, "lower labeler.eps"),
        (JaccardDBSCAN(**SMALL, eps=0.9), EQUAL, "the features have collapsed"),
        (JaccardDBSCAN(**SMALL, eps=0.01), NONE, "raise labeler.eps"),
        (JaccardDBSCAN(**SMALL, eps=0.6, min_samples=60), ONE, "lower labeler.min_samples"),
        (JaccardDBSCAN(**SMALL, eps=0.01, min_samples=1), NONE, "raise labeler.eps"),
        (SelfPaced(**SMALL, eps=0.9), ONE, "lower labeler.eps"),
        (SelfPaced(**SMALL, eps=0.03), NONE, "raise labeler.eps"),
        (KMeans(clusters=2), ONE, "Raise labeler.clusters (up to 40"),
        (KMeans(clusters=8), EQUAL, "Only 1 of 8 clusters have images: the features"),
        (KMeans(clusters=40), NONE, "use more images"),
    ],
)
def test_the_cure_fits_the_labels(labeler: PseudoLabeler, features: Tensor, cure: str) -> None:
    assert cure in labeler.hint(labeler.label(features))


def test_a_radius_cannot_exceed_its_range() -> None:
    labeler = JaccardDBSCAN(**SMALL, eps=1.0, min_samples=60)
    hint = labeler.hint(labeler.label(ONE))
    assert "lower labeler.min_samples" in hint and "eps" not in hint


@pytest.mark.parametrize("kind", [JaccardDBSCAN, SelfPaced])
def test_without_many_or_few_outliers_neither_radius_is_advised(kind: type[JaccardDBSCAN]) -> None:
    hint = kind().hint(made([-1] * 12 + [0] * 28))
    assert "labeler.k1" in hint and "raise" not in hint.lower() and "lower" not in hint


def test_bottom_up_that_merged_everything_merges_less() -> None:
    labeler = BottomUp(share=0.5)
    assert "use more images" in labeler.hint(labeler.label(ONE))
    for _ in range(3):
        labels = labeler.label(ONE)
    assert labels.clusters == 1 and "lower labeler.share" in labeler.hint(labels)


def test_infomap() -> None:
    if find_spec("infomap") is not None:
        strict = Infomap(k1=8, min_similarity=0.99)
        assert "lower labeler.min_similarity" in strict.hint(strict.label(NONE))
        loose = Infomap(k1=40)
        assert "raise labeler.min_similarity" in loose.hint(loose.label(EQUAL))
    labeler = Infomap.__new__(Infomap)  # the constructor needs the package
    assert "lower labeler.min_similarity" in labeler.hint(made([-1] * 40))
    assert "raise labeler.min_similarity" in labeler.hint(made([0] * 40))
    assert "labeler.k1 to about" in labeler.hint(made([-1] * 12 + [0] * 28))


def test_a_labeler_without_advice_of_its_own_names_its_settings() -> None:
    class Own(PseudoLabeler):
        def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
            return made([0] * len(features))

    assert "settings of the labeler" in Own().hint(made([0, 0]))
