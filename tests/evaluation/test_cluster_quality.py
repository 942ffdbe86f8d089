"""Cluster quality by hand, against pair counting, and at the edges."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.core.errors import HarnessError
from harness.evaluation.cluster_quality import cluster_quality


def test_perfect_clusters_of_some_images() -> None:
    found = cluster_quality(torch.tensor([1, 1, 0, 0, -1, -1]), np.array([5, 5, 7, 7, 7, 9]))
    assert (found["clusters"], found["outliers"], found["identities"]) == (2, 2, 3)
    assert found["clustered"] == pytest.approx(4 / 6)
    for name in ("ari", "nmi", "purity", "pair_precision", "pair_recall"):
        assert found[name] == pytest.approx(1.0), name
    assert found["pair_recall_all"] == pytest.approx(2 / 4)  # of 5-5 and three 7-7, two are found
    assert 0 < found["ari_all"] < 1


def test_by_hand() -> None:
    # cluster 0: a a b, cluster 1: b b
    found = cluster_quality(np.array([0, 0, 0, 1, 1]), np.array([3, 3, 4, 4, 4]))
    assert found["purity"] == pytest.approx(4 / 5)
    assert found["pair_precision"] == pytest.approx(2 / 4)  # claimed pairs: 3 + 1
    assert found["pair_recall"] == pytest.approx(2 / 4)  # true pairs: 1 + 3
    # pairs: 2 together in both, 4 in each, 10 in all; expected by chance 4·4/10
    assert found["ari"] == pytest.approx((2 - 1.6) / (4 - 1.6))
    assert found["ari_all"] == found["ari"]
    labels, truth = np.array([3, 2]) / 5, np.array([2, 3]) / 5
    joint = np.array([2, 1, 2]) / 5
    entropy = [-(p * np.log(p)).sum() for p in (labels, truth, joint)]
    information = entropy[0] + entropy[1] - entropy[2]
    assert found["nmi"] == pytest.approx(information / ((entropy[0] + entropy[1]) / 2))


def test_unknown_identities_are_left_out() -> None:
    labels, identities = np.array([0, 0, 1, 1, -1]), np.array([2, 2, 3, 4, 3])
    extra = cluster_quality(np.append(labels, [0, -1, 5]), np.append(identities, [-1, -1, -1]))
    assert extra == cluster_quality(labels, identities)


def test_one_cluster_of_many_identities() -> None:
    found = cluster_quality(np.zeros(6, dtype=int), np.array([0, 0, 0, 1, 1, 2]))
    assert found["clusters"] == 1
    assert found["ari"] == found["nmi"] == pytest.approx(0.0)
    assert found["purity"] == pytest.approx(0.5)
    assert found["pair_recall"] == 1.0


@pytest.mark.parametrize("images", [0, 1, 5])
def test_all_outliers(images: int) -> None:
    found = cluster_quality(np.full(images, -1), np.zeros(images, dtype=int))
    assert (found["clusters"], found["outliers"], found["clustered"]) == (0, images, 0.0)
    for name in ("ari", "nmi", "purity", "pair_precision", "pair_recall"):
        assert found[name] == 0.0, name


def test_clusters_of_one_image_claim_nothing() -> None:
    found = cluster_quality(np.arange(4), np.array([0, 0, 1, 1]))
    assert found["pair_precision"] == 1.0
    assert found["pair_recall"] == 0.0


images = st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), max_size=20)


@given(images)
def test_pairs_counted_one_by_one(images: list[tuple[int, int]]) -> None:
    found = cluster_quality(
        np.array([label for label, _ in images], dtype=int),
        np.array([identity for _, identity in images], dtype=int),
    )
    json.dumps(found, allow_nan=False)
    known = [pair for pair in images if pair[1] >= 0]
    clustered = [pair for pair in known if pair[0] >= 0]
    pairs = list(itertools.combinations(clustered, 2))
    claimed = [a[1] == b[1] for a, b in pairs if a[0] == b[0]]
    true = [a[0] == b[0] for a, b in pairs if a[1] == b[1]]
    if clustered:
        assert found["pair_precision"] == pytest.approx(np.mean(claimed) if claimed else 1.0)
        assert found["pair_recall"] == pytest.approx(np.mean(true) if true else 1.0)
    if known:
        true = [a[0] == b[0] >= 0 for a, b in itertools.combinations(known, 2) if a[1] == b[1]]
        assert found["pair_recall_all"] == pytest.approx(np.mean(true) if true else 1.0)


def test_shapes_that_do_not_match() -> None:
    with pytest.raises(HarnessError, match="labels"):
        cluster_quality(np.zeros(3), np.zeros(4))
