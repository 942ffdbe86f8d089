"""Camera proxies and the terms on them, each against the loop that its definition is."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.proxies import (
    Proxies,
    camera_proxies,
    cross_camera,
    ice_camera,
    intra_camera,
    nearest_by_camera,
    soft_contrast,
    sum_of_camera_means,
)
from harness.core.errors import HarnessError

seeds = st.integers(0, 2**31)
images = st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 3)), min_size=1, max_size=30)


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return F.normalize(x, dim=-1)


@given(images, seeds)
def test_proxies_are_normalized_means_sorted_by_camera_then_label(
    pairs: list[tuple[int, int]], seed: int
) -> None:
    labels, cameras = (torch.tensor(column) for column in zip(*pairs, strict=True))
    features = unit(len(pairs), 2, 6, seed=seed)
    if labels.max() < 0:
        with pytest.raises(HarnessError, match="outliers"):
            camera_proxies(features, labels, cameras)
        return
    proxies = camera_proxies(features, labels, cameras)
    expected = sorted({(camera, label) for label, camera in pairs if label >= 0})
    found = list(zip(proxies.cameras.tolist(), proxies.labels.tolist(), strict=True))
    assert found == expected
    for number, (camera, label) in enumerate(expected):
        members = [i for i, pair in enumerate(pairs) if pair == (label, camera)]
        assert (proxies.of_image == number).nonzero()[:, 0].tolist() == members
        mean = features[members].mean(dim=0)
        torch.testing.assert_close(
            proxies.features[:, number], mean / mean.norm(dim=-1, keepdim=True)
        )
    assert (proxies.of_image < 0).tolist() == [label < 0 for label, _ in pairs]
    alone = camera_proxies(features[:, 1], labels, cameras)
    assert torch.equal(alone.features, proxies.features[1])


def test_proxies_want_cameras() -> None:
    with pytest.raises(HarnessError, match="each image's camera") as caught:
        camera_proxies(unit(2, 3), torch.tensor([0, 1]), None)
    assert "uses_cameras" in caught.value.hint


def loop(similarity: list[float], positives: list[int], barred: list[int], k: int) -> float:
    """The published walk through one sample."""
    if not positives:
        return 0.0
    masked = [-1e4 if i in barred else s for i, s in enumerate(similarity)]
    # equal ones stay in their order: of the barred, the last come in first
    hardest = sorted(range(len(masked)), key=lambda i: masked[i])[-k:]
    scores = [similarity[i] for i in positives] + [similarity[i] for i in hardest]
    partition = math.log(sum(math.exp(s / 0.07) for s in scores))
    return sum(partition - similarity[i] / 0.07 for i in positives) / len(positives)


@given(
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=14),
    own=st.integers(0, 5),
    cut=st.integers(0, 3),
    k=st.integers(1, 16),
    seed=seeds,
)
def test_soft_contrast_is_the_walk_through_the_samples(
    labels: list[int], own: int, cut: int, k: int, seed: int
) -> None:
    similarity = unit(1, len(labels), seed=seed)
    barred = [i for i, label in enumerate(labels) if label == own]
    positives = barred[cut:]  # PPLR bars its own camera's proxy, which is no positive
    masks = torch.zeros(2, 1, len(labels), dtype=torch.bool)
    masks[0, 0, positives] = masks[1, 0, barred] = True
    ours = soft_contrast(similarity, masks[0], masks[1], 0.07, negatives=k)
    expected = loop(similarity[0].tolist(), positives, barred, k)
    assert float(ours) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_soft_contrast_takes_leading_dimensions_and_has_finite_gradients() -> None:
    similarity = unit(3, 4, 9).requires_grad_()
    positives = torch.rand(4, 9, generator=torch.Generator().manual_seed(0)) < 0.4
    positives[2] = False
    both = soft_contrast(similarity, positives, positives, 0.07, 5)
    assert both.shape == (3, 4)
    assert torch.equal(both[1], soft_contrast(similarity[1], positives, positives, 0.07, 5))
    both.sum().backward()
    assert similarity.grad is not None and torch.isfinite(similarity.grad).all()
    assert similarity.grad[:, 2].abs().max() == 0, "a sample without positives teaches nothing"


@given(
    positives=st.lists(st.booleans(), min_size=2, max_size=14),
    k=st.integers(1, 16),
    seed=seeds,
)
def test_without_refilling_all_others_are_negatives_by_their_ranking(
    positives: list[bool], k: int, seed: int
) -> None:
    similarity, ranking = unit(2, len(positives), seed=seed)
    mask = torch.tensor([positives])
    ours = soft_contrast(
        similarity[None], mask, mask, 0.07, negatives=k, ranking=ranking[None], refill=False
    )
    chosen = [i for i, own in enumerate(positives) if own]
    others = sorted((i for i, own in enumerate(positives) if not own), key=lambda i: -ranking[i])
    logits = similarity[chosen + others[:k]] / 0.07
    expected = -logits.log_softmax(0)[: len(chosen)].mean() if chosen else torch.zeros(())
    assert float(ours) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)


@given(
    cameras=st.lists(st.integers(0, 4), min_size=1, max_size=14), k=st.integers(1, 8), seed=seeds
)
def test_the_best_proxies_of_cameras(cameras: list[int], k: int, seed: int) -> None:
    """By sorting each camera's proxies; with too few cameras the next best of all follow."""
    ranking = unit(2, 3, len(cameras), seed=seed)
    ours = nearest_by_camera(ranking, torch.tensor(cameras), len(set(cameras)), k)
    for view, sample in [(v, b) for v in range(2) for b in range(3)]:
        order = sorted(range(len(cameras)), key=lambda q: -ranking[view, sample, q])
        tops = [next(q for q in order if cameras[q] == camera) for camera in set(cameras)]
        first = sorted(tops, key=order.index)[:k]
        expected = [*first, *(q for q in order if q not in first)][:k]
        assert ours[view, sample].nonzero()[:, 0].tolist() == sorted(expected)


def test_of_equal_proxies_of_a_camera_one_is_chosen() -> None:
    ranking = torch.tensor([[0.9, 0.9, 0.5, 0.4]])
    chosen = nearest_by_camera(ranking, torch.tensor([0, 0, 1, 1]), 2, 2)
    assert chosen.sum() == 2 and chosen[0, 2] and chosen[0, :2].any()


def test_intra_camera_sees_its_own_camera_only() -> None:
    cameras, own = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1, 3, 4])
    similarity = unit(2, 3, 5)
    ours = intra_camera(similarity, own, cameras, 0.1)
    for view in range(2):
        expected = [
            F.cross_entropy(similarity[view, :1, :3] / 0.1, torch.tensor([1])),
            F.cross_entropy(similarity[view, 1:2, 3:] / 0.1, torch.tensor([0])),
            F.cross_entropy(similarity[view, 2:, 3:] / 0.1, torch.tensor([1])),
        ]
        torch.testing.assert_close(ours[view], torch.stack(expected))


def test_cameras_weigh_the_same_however_many_images_they_have() -> None:
    terms = torch.tensor([[1.0, 2.0, 3.0, 10.0], [0.0, 0.0, 3.0, 1.0]])
    assert sum_of_camera_means(terms, torch.tensor([5, 5, 5, 2])).tolist() == [12.0, 2.0]


def some_proxies(views: int, dim: int) -> Proxies:
    labels, cameras = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([0, 0, 0, 1, 1])
    features = unit(views, 5, dim, seed=1)
    return Proxies(features, labels, cameras, torch.empty(0, dtype=torch.int64))


def test_ice_normalizes_columns() -> None:
    proxies = some_proxies(1, 8)
    flat = Proxies(proxies.features[0], proxies.labels, proxies.cameras, proxies.of_image)
    scaled = Proxies(
        flat.features * torch.linspace(0.1, 9, 8), flat.labels, flat.cameras, flat.of_image
    )
    x, labels, cameras = unit(3, 8, seed=2), torch.tensor([0, 1, 2]), torch.tensor([0, 1, 0])
    ours = ice_camera(x, labels, cameras, flat)
    torch.testing.assert_close(ours, ice_camera(3 * x, labels, cameras, scaled))


def test_cross_camera_counts_samples_without_another_camera() -> None:
    proxies = some_proxies(2, 8)
    x, cameras = unit(2, 2, 8, seed=3), torch.tensor([0, 0])
    both = cross_camera(x, torch.tensor([0, 2]), cameras, proxies)  # label 2 has camera 0 only
    alone = cross_camera(x[:1], torch.tensor([0]), cameras[:1], proxies)
    torch.testing.assert_close(both, alone / 2)
    assert both.shape == (2,) and both.min() > 0
