"""NCPLR's soft targets against loops over images and their neighbors, and odd options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import ClusterMemory, NeighbourConsistency
from harness.components.objectives.memory import centroids
from harness.components.objectives.neighbour_consistency import (
    Near,
    below,
    mixed_by_agreement,
)
from harness.core.errors import ConfigError, HarnessError, TrainingError
from tests.oracles.jaccard import distance

DIM, COUNT, K1, K2 = 12, 40, 10, 3
LABELS = torch.where(torch.arange(COUNT) % 9 == 8, -1, torch.arange(COUNT) % 5)
#: repeated images (0, 10), labels 0, 1 and 2
INDICES = torch.tensor([0, 10, 0, 1, 6, 11, 2, 10, 7, 0, 16])


def features(views: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(5, views, DIM, dtype=torch.float64, generator=generator)
    noise = torch.randn(COUNT, views, DIM, dtype=torch.float64, generator=generator)
    return F.normalize(centers[torch.arange(COUNT) % 5] + 0.35 * noise, dim=-1)


def made(views: int = 3, **options: Any) -> NeighbourConsistency:
    options = {"k1": K1, "k2": K2, "part_weight": 0.2 if views > 1 else 0.0, **options}
    objective = NeighbourConsistency(**options)
    objective.prepare(views, DIM, COUNT)
    return objective.double()


def started(views: int = 3, **options: Any) -> NeighbourConsistency:
    objective = made(views, **options)
    objective.start_epoch(features(views), LABELS)
    return objective


def batch(views: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 4 * features(views)[INDICES] + torch.randn(
        len(INDICES), views, DIM, dtype=torch.float64, generator=generator
    )


def dense(views: int, share: float) -> np.ndarray:
    """The fused distance (N, N)."""
    all_views = features(views).float().double().numpy()
    own = np.stack([distance(all_views[:, v], K1, K2) for v in range(views)])
    weights = np.array([1 - (views - 1) * share] + [share] * (views - 1))
    return np.asarray(np.tensordot(weights, own, axes=1))


def expected_votes(logits: Tensor, distances: np.ndarray, o: NeighbourConsistency) -> Tensor:
    """q of one view, image by image: logits (B, K), distances (N, N) → (B, K)."""
    found, seen = [], INDICES.tolist()
    one_view = len(o.memory) == 1
    for image in seen:
        voters = [j for j in sorted(set(seen)) if distances[image, j] <= o.radius or j == image]
        probabilities, weights = [], []
        for j in voters:
            own = logits[seen.index(j)].clone()
            if o.topk and one_view:
                own[own < own.sort(descending=True).values[o.topk - 1]] = 0
            probabilities.append(own.softmax(dim=0))
            d = 0.0 if j == image else distances[image, j]
            weights.append(np.exp(d / o.distance_temperature) if o.by_distance else 1.0)
        share = torch.tensor(weights, dtype=torch.float64) / sum(weights)
        found.append((share[:, None] * torch.stack(probabilities)).sum(dim=0))
    return torch.stack(found)


# ----------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize("by_distance", [False, True])
@pytest.mark.parametrize("topk", [0, 2])
def test_soft_targets_of_one_view(by_distance: bool, topk: int) -> None:
    objective = started(1, by_distance=by_distance, topk=topk, radius=0.5, distance_temperature=0.1)
    logits = objective.logits(batch(1)).detach()
    votes = expected_votes(logits[0], dense(1, 0.0), objective)
    onehot = F.one_hot(LABELS[INDICES], 5)
    ours = objective.soft_targets(logits, LABELS[INDICES], INDICES)[0]
    torch.testing.assert_close(ours, 0.1 * onehot + 0.9 * votes, rtol=0, atol=1e-5)
    equal = objective.near[0].among(INDICES)[0].sum(dim=1)
    assert 1 < equal.float().mean() < 6, "neighbors are neither all images nor the image alone"


def test_soft_targets_of_parts() -> None:
    objective = started(
        radius=0.5, distance_weight=0.2, agreement_temperature=0.7, topk=2, cut_parts=True,
        label_weight=0.3, part_label_weight=0.6, distance_temperature=0.1,
    )  # fmt: skip
    logits = objective.logits(batch()).detach()
    g, u, low = (expected_votes(view, dense(3, 0.2), objective) for view in logits)

    def agree(a: Tensor, b: Tensor) -> Tensor:
        return (-(a * (a / b).log()).sum(dim=1, keepdim=True) / 0.7).exp()

    mixed = [(g + agree(g, u) * u + agree(g, low) * low) / (1 + agree(g, u) + agree(g, low))]
    mixed += [(p + agree(p, g) * g) / (1 + agree(p, g)) for p in (u, low)]
    gone = mixed[0] < mixed[0].sort(dim=1, descending=True).values[:, 1:2]
    onehot = F.one_hot(LABELS[INDICES], 5)
    ours = objective.soft_targets(logits, LABELS[INDICES], INDICES)
    for view, share, votes in zip(ours, (0.3, 0.6, 0.6), mixed, strict=True):
        expected = share * onehot + (1 - share) * votes.masked_fill(gone, 0.0)
        torch.testing.assert_close(view, expected, rtol=0, atol=1e-5)


def test_views_have_their_own_neighbors() -> None:
    objective = started(fused=False, radius=0.4, part_radius=0.55)
    assert len(objective.near) == 3
    for v, near in enumerate(objective.near):
        own = distance(features()[:, v].float().double().numpy(), K1, K2)
        expected = torch.from_numpy(own <= (0.4 if v == 0 else 0.55)).fill_diagonal_(True)
        assert torch.equal(near.among(torch.arange(COUNT))[0], expected)


def test_the_loss_is_cluster_contrast_plus_the_soft_cross_entropies() -> None:
    objective = started(soft_weight=0.7, distance_weight=0.2)
    x = batch().requires_grad_()
    loss = objective(x, LABELS[INDICES], INDICES)
    contrast = ClusterMemory(part_weight=0.2)
    contrast.start_epoch(features(), LABELS)
    assert objective.classifiers is not None
    logits = torch.einsum("bvd,vkd->vbk", x, objective.classifiers[:, :5])
    soft = objective.soft_targets(logits, LABELS[INDICES], INDICES)
    terms = -(soft * logits.log_softmax(dim=-1)).sum(dim=-1).mean(dim=1)
    expected = contrast(x, LABELS[INDICES], INDICES) + 0.7 * (
        0.8 * terms[0] + 0.2 * terms[1] + 0.2 * terms[2]
    )
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert objective.classifiers.grad is not None
    assert objective.classifiers.grad[:, :5].abs().max() > 0
    assert objective.classifiers.grad[:, 5:].abs().max() == 0
    objective.update()
    contrast.update()
    torch.testing.assert_close(objective.memory, contrast.memory)


def test_shuffled_images_give_the_same_loss() -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))
    objective = made(distance_weight=0.2, radius=0.5)
    found = []
    for numbers, indices in ((torch.arange(COUNT), INDICES), (order, order.argsort()[INDICES])):
        objective.start_epoch(features()[numbers], LABELS[numbers])
        found.append(objective(batch(), LABELS[INDICES], indices))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)


# -------------------------------------------------------------------------------------------- ends


def test_no_pair_is_near_and_a_batch_of_one_image() -> None:
    objective = started(1)
    objective.near = [Near.of(csr_matrix((COUNT, COUNT), dtype=np.float32))]
    logits = objective.logits(batch(1))
    votes = objective.soft_targets(logits, LABELS[INDICES], INDICES)[0]
    own = logits[0].softmax(dim=-1)[[0, 1, 0, 3, 4, 5, 6, 1, 8, 0, 10]]  # the first of its image
    expected = 0.1 * F.one_hot(LABELS[INDICES], 5) + 0.9 * own
    torch.testing.assert_close(votes, expected)
    one = torch.zeros(3, dtype=torch.int64)
    loss = objective(batch(1)[[0, 2, 9]], one, one)
    assert torch.isfinite(loss)


def test_one_cluster() -> None:
    objective = made()
    objective.start_epoch(features(), torch.where(LABELS == 2, 0, -1))
    indices = (LABELS == 2).nonzero()[:, 0]
    x = features()[indices].requires_grad_()
    loss = objective(x, torch.zeros_like(indices), indices)
    loss.backward()
    objective.update()
    assert loss.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("views", [1, 3])
def test_a_cut_of_more_votes_than_clusters_cuts_nothing(views: int) -> None:
    whole, large = (started(views, topk=topk) for topk in (0, 50))
    losses = [o(batch(views), LABELS[INDICES], INDICES) for o in (whole, large)]
    assert torch.equal(*losses)


def test_equal_values_are_kept_together() -> None:
    values = torch.tensor([[3.0, 1.0, 2.0, 2.0], [0.0, 0.0, 0.0, -1.0]])
    assert below(values, 2).tolist() == [[False, True, False, False], [False, False, False, True]]
    assert not below(values, 0).any() and not below(values, 9).any()


def test_votes_that_underflow_stay_finite() -> None:
    """Logits without normalization may be far apart; log 0 would make NaN of 0 log 0."""
    votes = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]]])
    mixed = mixed_by_agreement(votes, 5.0)
    assert torch.isfinite(mixed).all()
    torch.testing.assert_close(mixed.sum(dim=-1), torch.ones(3, 1))
    torch.testing.assert_close(mixed[2], votes[2], msg="it agrees with the global view")


def test_near_pairs_of_a_graph() -> None:
    graph = csr_matrix(([0.1, 0.1, 0.0], ([0, 2, 1], [2, 0, 1])), shape=(3, 3))
    near, distances = Near.of(graph).among(torch.tensor([2, 0, 2, 1]))
    assert near.tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [True, True, False, False],  # an image that is repeated votes once
        [False, False, False, True],
    ]
    assert distances[near].tolist() == pytest.approx([0, 0.1, 0.1, 0, 0, 0.1, 0])


def test_the_classifier_is_set_to_the_centroids_of_each_epoch() -> None:
    objective = started()
    assert objective.has_classifier and objective.classifiers is not None
    assert objective.classifiers.shape == (3, COUNT, DIM), "no more rows than images"
    torch.testing.assert_close(objective.classifiers[:, :5].detach(), centroids(features(), LABELS))
    assert objective.logits(batch()).shape == (3, len(INDICES), 5)
    with pytest.raises(TrainingError, match="5 clusters are too many for a classifier of 4 rows"):
        started(max_clusters=4)


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs a cut, but objective.topk is 0"):
        NeighbourConsistency(cut_parts=True)
    with pytest.raises(ConfigError, match=r"k2=6 must not be larger than objective.k1=5"):
        NeighbourConsistency(k1=5)
    with pytest.raises(ConfigError, match=r"40 images are too few for objective.k1=41"):
        made(k1=41)
    for views, share in ((1, 0.2), (4, 0.4)):
        with pytest.raises(ConfigError, match=f"distance_weight={share} does not fit"):
            made(views, distance_weight=share)
    for call in (
        lambda: NeighbourConsistency().start_epoch(features(), LABELS),
        lambda: NeighbourConsistency()(batch(), LABELS[INDICES], INDICES),
    ):
        with pytest.raises(HarnessError, match="no classifiers"):
            call()
