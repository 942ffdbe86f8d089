from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.components.labelers import JaccardDBSCAN, SelfPaced, self_paced
from harness.core.errors import ConfigError, HarnessError
from tests.components.labelers.cases import blobs
from tests.oracles import labels as oracle


def dbscan_labels(values: list[int]) -> np.ndarray:
    """Any numbers as labels 0 … K−1 in order of first occurrence; negative ones are outliers."""
    numbers: dict[int, int] = {}
    return np.array([-1 if v < 0 else numbers.setdefault(v, len(numbers)) for v in values])


@st.composite
def three_labellings(draw: st.DrawFn) -> list[np.ndarray]:
    images = draw(st.integers(1, 24))
    values = st.lists(st.integers(-1, 3), min_size=images, max_size=images)
    return [dbscan_labels(draw(values)) for _ in range(3)]


@given(three_labellings(), st.none() | st.sampled_from([0.0, 0.5, 2 / 3, 1.0]))
def test_as_described(labels: list[np.ndarray], threshold: float | None) -> None:
    found = self_paced(labels[0], labels[1], labels[2], threshold)
    expected, expected_threshold = oracle.self_paced(labels[0], labels[1], labels[2], threshold)
    np.testing.assert_array_equal(found.labels, expected)
    assert found.threshold == expected_threshold


def test_what_leaves_gets_the_next_numbers_and_leaves_gaps() -> None:
    normal = np.array([0, 0, 0, 0, 1, 1, -1])
    tight = np.array([0, 0, 0, -1, 1, 1, -1])  # image 3 holds its cluster only at the normal radius
    loose = np.array([0, 0, 0, 0, 1, 1, 1])
    loosely = self_paced(normal, tight, loose, threshold=0.5)
    np.testing.assert_array_equal(loosely.labels, [0, 0, 0, 3, 1, 1, 4])
    strictly = self_paced(normal, tight, loose, threshold=0.0)
    np.testing.assert_array_equal(strictly.labels, [0, 0, 0, 3, 4, 5, 6])
    np.testing.assert_allclose(strictly.independence, [0, 1 / 3])


def test_no_images() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert len(self_paced(none, none, none).labels) == 0


def noisy(seed: int = 0) -> torch.Tensor:
    """Clusters that overlap, as (N, 1, D)."""
    return blobs(12, 8, spread=0.7, seed=seed)[:, None]


def test_labels_are_closed_up_and_every_image_has_one() -> None:
    labeler = SelfPaced(k1=10, k2=3, eps=0.5, gap=0.1)
    found = labeler.label(noisy())
    labels, sizes = torch.unique(found.labels, return_counts=True)
    assert torch.equal(labels, torch.arange(found.clusters))
    stats = found.stats
    assert found.outliers == 0 and found.labels.dtype == torch.int64
    assert stats["clusters"] == (sizes > 1).sum() > 0
    assert stats["singles"] == (sizes == 1).sum() > 0
    plain = JaccardDBSCAN(k1=10, k2=3, eps=0.5).label(noisy())
    assert stats["outliers"] == plain.outliers
    assert stats["singles"] > plain.outliers, "some images left their clusters"
    assert stats["threshold"] == labeler.threshold
    assert {name for name in stats if name.startswith("seconds_")} == {
        "seconds_search", "seconds_jaccard", "seconds_cluster", "seconds_select",
    }  # fmt: skip


def test_the_threshold_of_the_first_call_is_kept_and_resumed() -> None:
    def make() -> SelfPaced:
        return SelfPaced(k1=10, k2=3, eps=0.5, gap=0.1)

    first, second = noisy(), noisy(seed=3)
    labeler = make()
    labeler.label(first)
    kept = labeler.state_dict()
    labels = labeler.label(second).labels
    assert labeler.state_dict() == kept
    resumed, afresh = make(), make()
    resumed.load_state_dict(kept)
    assert torch.equal(resumed.label(second).labels, labels)
    assert not torch.equal(afresh.label(second).labels, labels), "the threshold decides"


def test_without_a_gap_the_labels_are_dbscans() -> None:
    plain = JaccardDBSCAN(k1=10, k2=3, eps=0.5).label(noisy())
    found = SelfPaced(k1=10, k2=3, eps=0.5, gap=0).label(noisy())
    inside = plain.labels >= 0
    assert torch.equal(found.labels[inside], plain.labels[inside])
    assert found.clusters == plain.clusters + plain.outliers


def test_identical_images_are_one_cluster() -> None:
    found = SelfPaced(k1=10).label(blobs(1, 1).expand(40, -1)[:, None])
    assert (found.clusters, found.stats["clusters"], found.stats["singles"]) == (1, 1, 0)


def test_all_outliers_are_singles_and_leave_the_threshold_open() -> None:
    labeler = SelfPaced(eps=0.05, k1=5, k2=1)
    found = labeler.label(blobs(30, 1)[:, None])
    assert torch.equal(found.labels, torch.arange(30))
    assert (found.stats["clusters"], found.stats["singles"], found.stats["outliers"]) == (0, 30, 30)
    assert labeler.threshold is None and "threshold" not in found.stats
    labeler.label(blobs(6, 5, spread=0.01)[:, None])
    assert labeler.threshold is not None, "the first call with a cluster sets it"


@pytest.mark.parametrize(
    ("features", "cause"),
    [
        (torch.full((40, 1, 4), float("nan")), "not finite"),
        (torch.zeros(40, 1, 4), "are zero"),
        (torch.ones(29, 1, 4) / 2, "29 images are too few"),
    ],
)
def test_bad_features_are_refused(features: torch.Tensor, cause: str) -> None:
    labeler = SelfPaced()
    with pytest.raises(HarnessError, match=cause):
        labeler.label(features)
    assert labeler.threshold is None


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [({"gap": 0.6}, "gap"), ({"eps": 0.99}, "1.01"), ({"k1": 5, "k2": 6}, "k2")],
)
def test_bad_settings_are_refused(arguments: dict[str, Any], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause) as raised:
        SelfPaced(**arguments)
    assert raised.value.hint


def test_describe_names_what_one_would_change() -> None:
    assert SelfPaced().describe() == "eps 0.6, min_samples 4, k1 30, k2 6, gap 0.02"
