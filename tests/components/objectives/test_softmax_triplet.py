"""A classifier that is built once and set up anew in each epoch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import SoftmaxTriplet
from harness.components.objectives.classification import smoothed_cross_entropy, soft_triplet
from harness.components.objectives.memory import centroids
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


def test_source_classes_are_rows_before_the_clusters() -> None:
    torch.manual_seed(0)
    source, target = (F.normalize(torch.randn(n, 1, 5), dim=-1) for n in (6, 9))
    identities, labels = torch.arange(6) // 2, torch.arange(9) // 3
    objective = SoftmaxTriplet(max_clusters=7)
    objective.source_classes = 3
    objective.prepare(1, 5, 9)
    objective.start_source(source, identities)
    objective.start_epoch(target, labels)
    rows = torch.cat([centroids(source, identities), centroids(target, labels)], dim=1)
    assert torch.equal(objective.classifier[:, :6].detach(), rows)
    x = torch.randn(15, 1, 5)
    joint = torch.cat([identities, labels + 3])
    expected = F.cross_entropy(x[:, 0] @ rows[0].T, joint, label_smoothing=0.1)
    expected = expected + soft_triplet(x[:, 0], joint)
    loss = objective(x, joint, torch.cat([torch.full((6,), -1), torch.arange(9)]))
    torch.testing.assert_close(loss, expected)
    # later epochs set the clusters' rows alone
    with torch.no_grad():
        objective.classifier[:, :3] += 1
    objective.start_epoch(target, torch.zeros(9, dtype=torch.int64))
    torch.testing.assert_close(objective.classifier[:, :3].detach(), rows[:, :3] + 1)
    assert objective.clusters == 4


def test_rows_of_fixed_labels_are_set_once() -> None:
    objective = SoftmaxTriplet(max_clusters=4, keep_rows=True)
    objective.prepare(1, 5, 6)
    assert objective.reads_features
    features, labels = F.normalize(torch.randn(6, 1, 5), dim=-1), torch.arange(6) // 2
    objective.start_epoch(features, labels)
    assert not objective.reads_features
    with torch.no_grad():
        objective.classifier += 1
    before = objective.classifier.detach().clone()
    objective.start_epoch(torch.empty(0, 1, 5), labels)
    assert torch.equal(objective.classifier, before) and objective.clusters == 3


def test_hard_triplets_have_a_margin() -> None:
    objective = SoftmaxTriplet(softmax_weight=0.0, triplet="hard", margin=0.3)
    objective.prepare(1, 2, 4)
    labels = torch.tensor([0, 0, 1, 1])
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.2, 0.0], [3.0, 0.0]])[:, None]
    objective.start_epoch(F.normalize(x + 1, dim=-1), labels)
    # farthest of the label minus nearest of another, plus the margin
    gaps = [1 - 1.2, 1 - 0.2, 1.8 - 0.2, 1.8 - 2.0]
    expected = sum(max(0.0, gap + 0.3) for gap in gaps) / 4
    assert float(objective(x, labels, torch.arange(4))) == pytest.approx(expected)
