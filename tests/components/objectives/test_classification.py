"""Triplet and cross-entropy losses, against loops over images; golden vectors do the rest."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.components.objectives.classification import (
    hard_triplet,
    hardest_pairs,
    pair_distances,
    smoothed_cross_entropy,
    soft_cross_entropy,
    soft_triplet,
)

labels_of_a_batch = st.lists(st.integers(0, 3), min_size=2, max_size=12)
seeds = st.integers(0, 2**31)


def _features(count: int, seed: int, dim: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dim, dtype=torch.float64, generator=generator)


def _distances(x: Tensor, labels: list[int], i: int) -> tuple[float, float | None]:
    """Farthest of the label, itself included, and nearest of another label, image by image."""
    to = [max(float((x[i] - other).norm()), 1e-6) for other in x]
    same = [d for d, label in zip(to, labels, strict=True) if label == labels[i]]
    others = [d for d, label in zip(to, labels, strict=True) if label != labels[i]]
    return max(same), min(others) if others else None


@given(labels_of_a_batch, seeds, st.sampled_from([0.0, 0.3, 2.0]))
def test_triplets_are_their_definition(labels: list[int], seed: int, margin: float) -> None:
    x = _features(len(labels), seed)
    hard, soft = [], []
    for i in range(len(labels)):
        positive, negative = _distances(x, labels, i)
        if negative is None:
            hard.append(0.0)
            soft.append(0.0)
            continue
        hard.append(max(0.0, positive - negative + margin))
        m = margin / 2  # a share
        total = math.log(math.exp(positive) + math.exp(negative))
        soft.append(-(m * (positive - total) + (1 - m) * (negative - total)))
    y = torch.tensor(labels)
    assert float(hard_triplet(x, y, margin)) == pytest.approx(sum(hard) / len(x), abs=1e-12)
    assert float(soft_triplet(x, y, margin / 2)) == pytest.approx(sum(soft) / len(x), abs=1e-12)


def test_a_reference_is_read_at_the_students_pairs() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0], [3.5]], dtype=torch.float64)
    reference = _features(4, 3).requires_grad_()
    labels = torch.tensor([0, 0, 0, 1])
    positives, negatives, counts = hardest_pairs(x, labels)
    assert positives.tolist() == [2, 2, 0, 3]
    assert negatives.tolist() == [3, 3, 3, 2]
    assert counts.all()
    loss = soft_triplet(x.requires_grad_(), labels, reference=reference)
    loss.backward()
    assert reference.grad is None
    expected = 0.0
    for i, (p, n) in enumerate(zip(positives, negatives, strict=True)):
        target = torch.stack([(reference[i] - reference[j]).norm() for j in (p, n)])
        target[target < 1e-6] = 1e-6
        own = torch.stack([(x[i] - x[j]).norm().clamp(min=1e-6) for j in (p, n)])
        expected -= float((target.softmax(0) * own.log_softmax(0)).sum().detach()) / 4
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-12)


def test_without_any_negative_nothing_is_learnt() -> None:
    x = _features(5, 0).requires_grad_()
    labels = torch.zeros(5, dtype=torch.int64)
    loss = hard_triplet(x, labels, 0.3) + soft_triplet(x, labels, 0.5)
    loss = loss + soft_triplet(x, labels, reference=_features(5, 1))
    loss.backward()
    assert float(loss.detach()) == 0
    assert x.grad is not None and not x.grad.any()


def test_equal_images_have_a_distance_and_no_gradient() -> None:
    """Duplicates are common in batches: no distance of 0, whose root has no gradient."""
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    distances = pair_distances(x, torch.tensor([1, 0]))
    distances.sum().backward()
    assert distances.tolist() == pytest.approx([1e-6, 1e-6])
    assert x.grad is not None and not x.grad.any()


def test_float32_distances_do_not_cancel() -> None:
    """Batch-norm outputs are long (√2048) and may be close: d must hold there too."""
    x = 10 * _features(8, 0, dim=2048)
    x[1] = x[0] + 1e-3 * _features(1, 1, dim=2048)
    exact = pair_distances(x, torch.tensor([1, 0, 1, 1, 1, 1, 1, 1]))
    ours = pair_distances(x.float(), torch.tensor([1, 0, 1, 1, 1, 1, 1, 1]))
    torch.testing.assert_close(ours.double(), exact, rtol=2e-4, atol=0)


def test_smoothing_and_soft_targets() -> None:
    logits, labels = _features(6, 2), torch.tensor([0, 3, 1, 1, 2, 0])
    target = torch.full((6, 4), 0.1 / 4, dtype=torch.float64)
    target[torch.arange(6), labels] += 0.9
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, 0.1), expected)
    torch.testing.assert_close(soft_cross_entropy(logits, target.log()), expected)
    torch.testing.assert_close(
        smoothed_cross_entropy(logits, labels, 0.0),
        torch.nn.functional.cross_entropy(logits, labels),
    )
