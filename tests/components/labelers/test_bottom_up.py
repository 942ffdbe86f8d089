from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.components.labelers import BottomUp, bottom_up, merge
from harness.core.errors import HarnessError
from tests.components.labelers.cases import blobs, golden, lattice
from tests.oracles import labels as oracle


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bottom_up, "_TILE_CPU", 7)


# λ = 1/32: exact in float32, so that ties are ties; sizes and distances then tie with each other
@given(lattice(), st.data())
def test_as_described_with_many_ties(features: np.ndarray, data: st.DataObject) -> None:
    n = len(features)
    numbers = data.draw(st.lists(st.integers(0, n), min_size=n, max_size=n))
    labels = np.unique(numbers, return_inverse=True)[1]
    merges = data.draw(st.integers(0, n))
    penalty = data.draw(st.sampled_from([0.0, 1 / 32, 4.0]))
    tile, bottom_up._TILE_CPU = bottom_up._TILE_CPU, data.draw(st.integers(1, n))
    try:
        found = merge(torch.from_numpy(features), torch.from_numpy(labels), merges, penalty)
    finally:
        bottom_up._TILE_CPU = tile
    np.testing.assert_array_equal(found, oracle.merge(features, labels, merges, penalty))


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("merges", [1, 5, 30, 59, 1000])
@pytest.mark.parametrize("each", [1, 3])
def test_as_described(merges: int, each: int) -> None:
    features = blobs(20, 3, spread=0.4)
    labels = torch.randperm(60, generator=torch.Generator().manual_seed(0)) // each
    expected = oracle.merge(features.numpy(), labels.numpy(), merges, 0.003)
    np.testing.assert_array_equal(merge(features, labels, merges, 0.003), expected)


@pytest.mark.usefixtures("small_tiles")
def test_buc_labels_of_three_rounds() -> None:
    case = golden("buc_merge")
    labeler = BottomUp(share=float(case["merge_percent"]), size_penalty=float(case["size_penalty"]))
    np.testing.assert_array_equal(
        labeler.label(torch.from_numpy(case["features0"])[:, None]).labels, case["labels_before0"]
    )
    for step in range(3):
        found = labeler.label(torch.from_numpy(case[f"features{step}"])[:, None])
        np.testing.assert_array_equal(found.labels, case[f"labels_after{step}"])
        assert found.clusters == 90 - 9 * (step + 1)


def test_the_penalty_keeps_large_clusters_apart() -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 0.9, 1.05, 2.0])
    features = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = torch.tensor([0, 0, 1, 2, 3, 4])
    assert merge(features, labels, 1, 0.0).tolist() == [0, 0, 0, 1, 2, 3]
    assert merge(features, labels, 1, 0.1).tolist() == [0, 0, 1, 2, 2, 3]


def test_the_first_call_leaves_every_image_alone() -> None:
    found = BottomUp().label(blobs(5, 8)[:, None])
    assert torch.equal(found.labels, torch.arange(40))
    stats = found.stats
    assert (stats["clusters"], stats["singles"], stats["outliers"]) == (40, 40, 0)
    assert "seconds_cluster" in stats


def test_rounds_end_with_one_cluster_that_stays() -> None:
    labeler = BottomUp(share=0.3)
    counts = [labeler.label(blobs(5, 8, seed=seed)[:, None]).clusters for seed in range(6)]
    assert counts == [40, 28, 16, 4, 1, 1]


def test_near_images_come_together_first() -> None:
    labeler = BottomUp(share=0.875)  # 35 of 40
    features = blobs(5, 8, spread=0.02)[:, None]
    labeler.label(features)
    np.testing.assert_array_equal(labeler.label(features).labels, np.repeat(np.arange(5), 8))


def test_identical_images() -> None:
    labeler = BottomUp(share=0.25)
    features = blobs(1, 1).expand(40, -1)[:, None]
    labeler.label(features)
    found = labeler.label(features)
    assert (found.clusters, found.outliers) == (30, 0)


def test_what_is_returned_is_not_the_state() -> None:
    labeler, features = BottomUp(share=0.25), blobs(5, 8)[:, None]
    labeler.label(features).labels.zero_()
    labeler.state_dict()["labels"].zero_()
    assert labeler.label(features).clusters == 30


def test_resumed_rounds_are_the_same() -> None:
    rounds = [blobs(10, 4, spread=0.5, seed=seed)[:, None] for seed in range(4)]
    whole, first = BottomUp(share=0.1), BottomUp(share=0.1)
    expected = [whole.label(features).labels for features in rounds]
    for features in rounds[:2]:
        first.label(features)
    resumed = BottomUp(share=0.1)
    resumed.load_state_dict(first.state_dict())
    for features, labels in zip(rounds[2:], expected[2:], strict=True):
        assert torch.equal(resumed.label(features).labels, labels)


@pytest.mark.parametrize(
    ("features", "cause"),
    [
        (torch.full((40, 1, 4), float("nan")), "not finite"),
        (torch.zeros(40, 1, 4), "are zero"),
        (torch.ones(19, 1, 4) / 2, "0.05 of 19 images"),
        (torch.ones(0, 1, 4), "0 images|of 0"),
        (torch.ones(40, 4) / 2, r"must be \(N, V, D\)"),
    ],
)
def test_bad_features_are_refused(features: torch.Tensor, cause: str) -> None:
    labeler = BottomUp()
    with pytest.raises(HarnessError, match=cause):
        labeler.label(features)
    assert labeler.state_dict() == {"labels": None}


@pytest.mark.parametrize("images", [2, 7, 19])
def test_the_share_that_is_advised_is_enough(images: int) -> None:
    features = blobs(images, 1)[:, None]
    with pytest.raises(HarnessError) as raised:
        BottomUp(share=0.01).label(features)
    labeler = BottomUp(share=float(raised.value.hint.split("=")[1].split()[0]))
    labeler.label(features)
    assert labeler.label(features).clusters == images - 1


@pytest.mark.parametrize("images", [161, 187, 322, 347, 374, 389, 400])
def test_the_smallest_training_set_can_be_merged(images: int) -> None:
    """1 / share is rounded: 161 · (1 / 161) is less than 1."""
    labeler = BottomUp(share=1 / images)
    assert images <= labeler.min_images <= images + 1
    features = blobs(labeler.min_images, 1)[:, None]
    labeler.label(features)
    assert labeler.label(features).clusters == labeler.min_images - 1


def test_another_training_set_is_refused() -> None:
    labeler = BottomUp()
    labeler.label(blobs(5, 8)[:, None])
    with pytest.raises(HarnessError, match="48 images"):
        labeler.label(blobs(6, 8)[:, None])


def test_describe_names_what_one_would_change() -> None:
    assert BottomUp().describe() == "share 0.05, size_penalty 0.003"
