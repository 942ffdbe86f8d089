"""3C's objective against loops over labels, cameras and samples."""

from __future__ import annotations

import math
from collections import Counter
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import CameraClusterMemory, ClusterMemory
from harness.components.objectives.camera_cluster_memory import (
    Rule,
    camera_entropies,
    camera_groups,
    entropy_weights,
)
from harness.core.errors import HarnessError

CLUSTERS, CAMERAS, DIM = 4, 3, 5
RULES: tuple[Rule, ...] = get_args(Rule)
#: (label, camera) of each sample of a batch
batches = st.lists(
    st.tuples(st.integers(0, CLUSTERS - 1), st.integers(0, CAMERAS - 1)), min_size=1, max_size=20
)
seeds = st.integers(0, 2**31)


def columns(batch: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    labels, cameras = torch.tensor(batch).T
    return labels, cameras


def drawn(rows: int, views: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, views, DIM, dtype=torch.float64, generator=generator)


def begun(views: int = 1, seed: int = 0, **options: object) -> CameraClusterMemory:
    objective = CameraClusterMemory(**options)  # type: ignore[arg-type]
    centers = F.normalize(drawn(CLUSTERS, views, seed + 1), dim=-1)
    objective.start_epoch(centers, torch.arange(CLUSTERS), torch.zeros(CLUSTERS, dtype=torch.int64))
    return objective


def first_of_largest(scores: list[Tensor]) -> int:
    return max(range(len(scores)), key=lambda i: float(scores[i]))


def followed_by_loops(rule: Rule, m: Tensor, samples: list[tuple[int, Tensor]]) -> list[Tensor]:
    """What a row m follows, of its samples (camera, feature) in batch order."""
    groups: dict[int, list[Tensor]] = {}
    for camera, f in samples:
        groups.setdefault(camera, []).append(f)
    features = [f for _, f in samples]
    if rule == "cm":
        return features
    if rule == "cm_hard":
        return [features[first_of_largest([-f @ m for f in features])]]
    if rule == "cm_camera":
        return [own[0] for own in groups.values()]
    if rule == "cm_hard_camera":
        return [own[first_of_largest([-f @ m for f in own])] for own in groups.values()]
    centers = [F.normalize(torch.stack(own).mean(0), dim=0) for own in groups.values()]
    if rule == "tccl_camera":
        return [centers[first_of_largest([-o @ m for o in centers])]]
    best = []
    for own, o in zip(groups.values(), centers, strict=True):
        scores = [(1 - f @ m) * (1 + f @ o) / (1 - f @ m + 1 + f @ o) for f in own]
        chosen = first_of_largest(scores)
        best.append((scores[chosen], own[chosen]))
    return [best[first_of_largest([score for score, _ in best])][1]]


@pytest.mark.parametrize("rule", RULES)
@given(batches, seeds, st.sampled_from([0.0, 0.1, 0.9]))
def test_rows_follow_the_rule(
    rule: Rule, batch: list[tuple[int, int]], seed: int, momentum: float
) -> None:
    objective = begun(2, seed, rule=rule, momentum=momentum, part_weight=0.5)
    labels, objective.cameras = columns(batch)
    expected, x = objective.memory.clone(), drawn(len(batch), 2, seed)
    unit = F.normalize(x, dim=-1)
    for v in range(2):
        for label in sorted(set(labels.tolist())):
            own = [(c, unit[i, v]) for i, (y, c) in enumerate(batch) if y == label]
            for f in followed_by_loops(rule, expected[v, label].clone(), own):
                moved = momentum * expected[v, label] + (1 - momentum) * f
                expected[v, label] = moved / moved.norm()
    objective(x, labels, torch.arange(len(batch)))
    objective.update()
    torch.testing.assert_close(objective.memory, expected, rtol=0, atol=1e-12)


def test_of_equals_the_first_is_followed() -> None:
    """The samples of a label are at equal distances, in cameras whose order is not the batch's."""
    m, a, b, c = torch.eye(4, dtype=torch.float64)
    x = torch.stack([a, b, c, a])[:, None]
    for cameras, rule, expected in (
        ([1, 0, 1, 0], "cm_hard", a),
        ([1, 0, 0, 0], "tccl_camera", a),
        ([1, 0, 2, 3], "tccl_camera", a),
        ([1, 0, 2, 3], "hd_camera", a),
    ):
        objective = CameraClusterMemory(rule=rule, momentum=0.0)  # type: ignore[arg-type]
        objective.start_epoch(m[None, None], torch.tensor([0]), torch.tensor([0]))
        objective.cameras = torch.tensor(cameras)
        objective(x, torch.zeros(4, dtype=torch.int64), torch.arange(4))
        objective.update()
        assert torch.equal(objective.memory[0, 0], expected), rule


@given(batches)
def test_weights_of_labels_with_many_cameras_are_larger(batch: list[tuple[int, int]]) -> None:
    labels, cameras = columns(batch)
    groups = camera_groups(labels, cameras)
    assert groups.tolist() == [batch.index(pair) for pair in batch]
    entropy = {}
    for label in set(labels.tolist()):
        shares = Counter(c for y, c in batch if y == label)
        total = sum(shares.values())
        entropy[label] = -sum(n / total * math.log2(n / total) for n in shares.values())
    powers = {label: math.exp(h) for label, h in entropy.items()}
    weights = {label: len(powers) * g / sum(powers.values()) for label, g in powers.items()}
    found = camera_entropies(labels, groups), entropy_weights(labels, groups)
    for ours, theirs in zip(found, (entropy, weights), strict=True):
        expected = torch.tensor([theirs[label] for label, _ in batch], dtype=torch.float64)
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)


def test_the_mean_over_labels_is_one_that_over_samples_is_not() -> None:
    labels, cameras = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2, 0])
    weights = entropy_weights(labels, camera_groups(labels, cameras))
    assert weights[[0, 3]].mean() == pytest.approx(1) and weights.mean() > 1.1


@given(batches, seeds)
def test_the_loss_is_the_weighted_mean_of_cross_entropies(
    batch: list[tuple[int, int]], seed: int
) -> None:
    objective = begun(3, seed, part_weight=0.2)
    labels, objective.cameras = columns(batch)
    x = drawn(len(batch), 3, seed)
    weights = entropy_weights(labels, camera_groups(labels, objective.cameras))
    total = 0.0
    for v, weight in enumerate((0.8, 0.2, 0.2)):
        logits = F.normalize(x[:, v], dim=-1) @ objective.memory[v].T / 0.05
        each = F.cross_entropy(logits, labels, reduction="none")
        total += weight * float((weights * each).sum()) / len(batch)
    assert float(objective(x, labels, torch.arange(len(batch)))) == pytest.approx(total)


@pytest.mark.parametrize("rule", ["cm", "cm_hard"])
def test_without_weights_these_rules_are_cluster_memorys(rule: Rule) -> None:
    ours, theirs = begun(rule=rule, weighted=False), ClusterMemory(hard=rule == "cm_hard")
    theirs.memory = ours.memory.clone()
    ours.cameras = torch.arange(12) % CAMERAS
    x, labels = drawn(12, 1, 3), torch.arange(12) % CLUSTERS
    for _ in range(2):
        losses = [objective(x, labels, torch.arange(12)) for objective in (ours, theirs)]
        assert losses[0] == losses[1]
        ours.update()
        theirs.update()
        assert torch.equal(ours.memory, theirs.memory)


def test_one_camera_gives_equal_weights() -> None:
    labels = torch.tensor([0, 0, 2])
    assert entropy_weights(labels, camera_groups(labels, torch.zeros(3))).tolist() == [1, 1, 1]


def test_it_needs_cameras_and_a_begun_epoch() -> None:
    assert CameraClusterMemory.needs_cameras({})
    with pytest.raises(HarnessError, match="each image's camera"):
        CameraClusterMemory().start_epoch(drawn(4, 1, 0), torch.arange(4))
    with pytest.raises(HarnessError, match="no cameras"):
        CameraClusterMemory()(drawn(2, 1, 0), torch.arange(2), torch.arange(2))
