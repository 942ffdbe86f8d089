"""ICE's terms, against loops and where their value is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.proxy_contrast import (
    cluster_contrast,
    consistency,
    hard_instance,
)


def drawn(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, dtype=torch.float64, generator=generator)


LABELS = torch.tensor([0, 0, 0, 1, 2, 2])  # not equally often, unlike the published batches


def test_hard_instance_is_the_walk_through_the_samples() -> None:
    x, y = drawn(6, 0), drawn(6, 1)
    a, b = F.normalize(x, dim=1), F.normalize(y, dim=1)
    terms = []
    for i, label in enumerate(LABELS):
        scores = (a[i] @ b.T / 0.1).exp()
        hardest = scores[label == LABELS].min()
        terms.append(-(hardest / (hardest + scores[label != LABELS].sum())).log())
    torch.testing.assert_close(hard_instance(x, y, LABELS), torch.stack(terms).mean())


def test_hard_instance_of_a_single_label_is_zero_with_a_finite_gradient() -> None:
    x = drawn(4, 0).requires_grad_()
    loss = hard_instance(x, drawn(4, 1), torch.zeros(4, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0.0
    assert x.grad is not None and x.grad.abs().max() == 0


def test_cluster_contrast_does_not_normalise() -> None:
    x, centers = drawn(6, 0), 0.3 * drawn(3, 1)
    log_p = (x @ centers.T / 0.5).log_softmax(dim=1)
    target = 0.9 * F.one_hot(LABELS, 3) + 0.1 / 3
    expected = -(target * log_p).sum(dim=1).mean()
    torch.testing.assert_close(cluster_contrast(x, centers, LABELS), expected)


def test_consistency_is_zero_where_all_agree_and_scales() -> None:
    x, y, u = drawn(6, 0), drawn(6, 1), drawn(6, 2)
    assert float(consistency(x, 2 * x, 3 * x)) == pytest.approx(0, abs=1e-12)
    one = float(consistency(x, y, u, factor=1.0))
    assert one > 0
    assert float(consistency(x, y, u)) == pytest.approx(10 * one)
