"""Memories, each against the loop that its definition is."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import centroids, draw_one_each, ema_rows, hardest

CLUSTERS, DIM = 5, 3
labels_of_a_batch = st.lists(st.integers(0, CLUSTERS - 1), min_size=1, max_size=24)
seeds = st.integers(0, 2**31)


def _draw(labels: list[int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def unit(rows: int) -> Tensor:
        x = torch.randn(rows, DIM, dtype=torch.float64, generator=generator)
        return F.normalize(x, dim=-1)

    return unit(CLUSTERS), unit(len(labels)), torch.tensor(labels)


@given(labels_of_a_batch, seeds, st.sampled_from([0.0, 0.1, 0.2, 0.9, 1.0]))
def test_ema_rows_is_the_walk_through_the_batch(
    labels: list[int], seed: int, momentum: float
) -> None:
    memory, features, y = _draw(labels, seed)
    expected = memory.clone()
    for feature, label in zip(features, labels, strict=True):
        row = momentum * expected[label] + (1 - momentum) * feature
        expected[label] = row / row.norm()
    ema_rows(memory, features, y, momentum)
    torch.testing.assert_close(memory, expected, rtol=0, atol=1e-12)


def test_the_order_of_one_labels_samples_matters() -> None:
    memory, features, y = _draw([2, 2], 0)
    other = memory.clone()
    ema_rows(memory, features, y, 0.1)
    ema_rows(other, features.flip(0), y, 0.1)
    assert not torch.allclose(memory, other)


@given(labels_of_a_batch, seeds)
def test_hardest_is_the_least_similar_of_each_label(labels: list[int], seed: int) -> None:
    memory, features, y = _draw(labels, seed)
    expected = [
        min(
            (i for i, other in enumerate(labels) if other == label),
            key=lambda i: float(memory[labels[i]] @ features[i]),
        )
        for label in sorted(set(labels))
    ]
    assert hardest(memory, features, y).tolist() == expected


def test_the_first_of_equally_hard_samples_is_taken() -> None:
    memory = torch.eye(2)
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert hardest(memory, features, torch.tensor([0, 0, 0])).tolist() == [1]


@given(st.permutations([0, 0, 0, 1, 1, 2, -1, -1]), seeds, st.integers(1, 3))
def test_centroids_are_normalized_means_without_outliers(
    labels: list[int], seed: int, views: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(len(labels), views, DIM, dtype=torch.float64, generator=generator)
    result = centroids(features, torch.tensor(labels))
    assert result.shape == (views, 3, DIM)
    for v in range(views):
        for k in range(3):
            members = [features[i, v] for i, label in enumerate(labels) if label == k]
            mean = sum(members, torch.zeros(DIM, dtype=torch.float64)) / len(members)
            torch.testing.assert_close(result[v, k], mean / mean.norm())


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=30).filter(lambda x: max(x) >= 0), seeds)
def test_a_member_is_drawn_of_each_cluster(labels: list[int], seed: int) -> None:
    y = torch.tensor(labels)
    y = torch.where(y >= 0, torch.searchsorted(y[y >= 0].unique(), y), -1)  # without gaps
    torch.manual_seed(seed)
    assert torch.equal(y[draw_one_each(y)], torch.arange(int(y.max()) + 1))


def test_every_member_is_drawn_as_often() -> None:
    torch.manual_seed(0)
    y = torch.tensor([0, 1, -1, 0, 0, 1])
    drawn = torch.stack([draw_one_each(y) for _ in range(3000)]).flatten()
    shares = torch.bincount(drawn, minlength=6) / 3000
    expected = torch.tensor([1 / 3, 1 / 2, 0, 1 / 3, 1 / 3, 1 / 2])
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.04)
