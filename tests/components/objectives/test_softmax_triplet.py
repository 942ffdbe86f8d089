"""A classifier that is built once and set up anew in each epoch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import SoftmaxTriplet
from harness.components.objectives.classification import smoothed_cross_entropy, soft_triplet
from harness.core.errors import TrainingError


def _set(views: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(12, views, 5, generator=generator), dim=-1)
    return features, torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, -1, -1, 0])


def test_the_first_rows_are_the_cluster_means_of_the_epoch() -> None:
    features, labels = _set()
    objective = SoftmaxTriplet(max_clusters=4)
    objective.prepare(1, 5, 12)
    parameter = objective.classifier
    for epoch_labels in (labels, labels % 2):
        objective.start_epoch(features, epoch_labels)
        assert objective.classifier is parameter, "the optimizer holds this one"
        for k in range(int(epoch_labels.max()) + 1):
            mean = features[epoch_labels == k, 0].mean(0)
            torch.testing.assert_close(parameter[0, k].detach(), mean / mean.norm())


def test_the_loss_is_softmax_and_triplet_of_each_view() -> None:
    features, labels = _set(views=3)
    objective = SoftmaxTriplet(
        smoothing=0.2, margin=0.1, triplet_weight=0.5, part_weight=0.3, max_clusters=7
    )
    objective.prepare(3, 5, 12)
    objective.start_epoch(features, labels)
    x = 4 * features[:9]
    loss = objective(x, labels[:9], torch.arange(9))
    loss.backward()
    expected = torch.zeros(())
    for v, weight in enumerate((0.7, 0.3, 0.3)):
        logits = x[:, v] @ objective.classifier[v, :3].T  # neither side normalized here
        expected = expected + weight * smoothed_cross_entropy(logits, labels[:9], 0.2)
        expected = expected + weight * 0.5 * soft_triplet(x[:, v], labels[:9], 0.1)
    torch.testing.assert_close(loss, expected)
    grad = objective.classifier.grad
    assert grad is not None and grad[:, :3].any() and not grad[:, 3:].any()


def test_triplets_before_the_neck() -> None:
    features, labels = _set(views=3)
    objective = SoftmaxTriplet(
        triplet_weight=0.2, part_weight=0.3, max_clusters=7, softmax_weight=0.5, before_neck=True
    )
    objective.prepare(3, 5, 12)
    objective.start_epoch(features, labels)
    x = 4 * features[:9]
    rows = objective.classifier
    assert rows.shape == (2, 7, 5), "the last view has no classifier"
    assert torch.equal(objective.metric_view(x), x[:, 2])
    torch.testing.assert_close(
        objective.logits(x), torch.stack([x[:, v] @ rows[v, :3].T for v in range(2)])
    )
    expected = 0.7 * 0.2 * soft_triplet(x[:, 2], labels[:9])
    for v, weight in enumerate((0.7, 0.3)):
        softmax = smoothed_cross_entropy(x[:, v] @ rows[v, :3].T, labels[:9])
        expected = expected + weight * 0.5 * softmax
    torch.testing.assert_close(objective(x, labels[:9], torch.arange(9)), expected)


def test_more_clusters_than_rows_is_explained() -> None:
    features, labels = _set()
    objective = SoftmaxTriplet(max_clusters=2)
    objective.prepare(1, 5, 12)
    with pytest.raises(TrainingError, match="3 clusters are too many for a classifier of 2") as no:
        objective.start_epoch(features, labels)
    assert "objective.max_clusters=6" in no.value.hint
