"""ISE's objective against loops over samples, and what its groups of negatives suppose."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import ClusterMemory, ImplicitExtension
from harness.components.objectives.implicit_extension import label_preserving

CLUSTERS, DIM = 4, 5
labels_of_a_batch = st.lists(st.integers(0, CLUSTERS - 1), min_size=1, max_size=14)
seeds = st.integers(0, 2**31)


def unit(rows: int, views: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, views, DIM, dtype=torch.float64, generator=generator)
    return F.normalize(x, dim=-1)


def begun(
    views: int = 1, clusters: int = CLUSTERS, seed: int = 0, **options: float
) -> ImplicitExtension:
    objective = ImplicitExtension(**options)  # type: ignore[arg-type]
    objective.start_epoch(unit(clusters, views, seed + 1), torch.arange(clusters))
    return objective


def supports_by_loops(x: Tensor, memory: Tensor, labels: list[int], k: int, t: float) -> Tensor:
    """Of one view: features (B, D), memory (K, D)."""
    length = 0.5 * (0.5 * math.log(1 + (math.e - 1) * t))
    rows = []
    for f, y in zip(x, labels, strict=True):
        others = [c for c in range(len(memory)) if c != y]
        for c in sorted(others, key=lambda c: -float(f @ memory[c]))[:k]:
            moved = f + length * (memory[c] - memory[y])
            rows.append(moved / moved.norm())
    return torch.stack(rows)


def preserving_by_loops(
    x: Tensor, supports: Tensor, labels: list[int], n: int, temperature: float
) -> float:
    """Of one view, group by group."""
    k, total = len(supports) // len(x), 0.0
    of_support = [y for y in labels for _ in range(k)]
    for f, y in zip(x, labels, strict=True):
        u = [math.exp(float(f @ s) / temperature) for s in supports]
        positive = min(value for value, other in zip(u, of_support, strict=True) if other == y)
        others = [value for value, other in zip(u, of_support, strict=True) if other != y]
        if len(supports) % (k * n) == 0 and len(others) % (k * n) == 0:
            others = [max(others[i : i + k * n]) for i in range(0, len(others), k * n)]
        total -= math.log(positive / (positive + sum(others) + 1e-6) + 1e-6)
    return total / len(x)


@given(labels_of_a_batch, seeds, st.integers(1, 3), st.integers(1, 4), st.floats(0, 0.99))
def test_supports_loss_and_update(
    labels: list[int], seed: int, near: int, images: int, progress: float
) -> None:
    """Two views, with batches of any labels in any order."""
    objective = begun(
        2, seed=seed, neighbours=near, images=images, part_weight=0.3, contrast_weight=0.7,
        preserving_weight=0.2,
    )  # fmt: skip
    objective.progress = progress
    x, memory, targets = unit(len(labels), 2, seed), objective.memory.clone(), torch.tensor(labels)
    expected = [supports_by_loops(x[:, v], memory[v], labels, near, progress) for v in range(2)]
    found = objective.extend(x, targets)
    torch.testing.assert_close(found, torch.stack(expected, dim=1), rtol=0, atol=1e-12)
    whole = torch.cat([x, found])
    of_all = torch.cat([targets, targets.repeat_interleave(near)])
    total = 0.0
    for v, weight in enumerate((0.7, 0.3)):
        contrast = F.cross_entropy(whole[:, v] @ memory[v].T / 0.05, of_all)
        preserving = preserving_by_loops(x[:, v], found[:, v], labels, images, 0.6)
        total += weight * (0.7 * float(contrast) + 0.2 * preserving)
    loss = objective(3 * x, targets, torch.arange(len(labels)))
    assert float(loss) == pytest.approx(total, abs=1e-12)
    objective.update()
    plain = ClusterMemory(momentum=0.2)
    plain.memory = memory
    plain.follow(whole, of_all)
    torch.testing.assert_close(objective.memory, plain.memory, rtol=0, atol=1e-12)


def test_supports_keep_the_gradient_of_their_image() -> None:
    objective = begun()
    objective.progress = 0.5
    x = unit(6, 1, 2).requires_grad_()
    (grad,) = torch.autograd.grad(objective.extend(x, torch.arange(6) % CLUSTERS)[3].sum(), x)
    assert grad[3].abs().max() > 0 and grad[[0, 1, 2, 4, 5]].abs().max() == 0


def test_at_the_start_supports_are_their_images() -> None:
    x = unit(6, 1, 2)
    assert torch.allclose(begun().extend(x, torch.arange(6) % CLUSTERS), x, rtol=0, atol=1e-15)
    late = begun()
    late.progress = 1 - 1e-9  # λ → ¼ λ0
    direction = late.memory[0, 1] - late.memory[0, 0]
    memory = torch.stack([late.memory[0, 0], late.memory[0, 1]])
    late.memory = memory[None]
    found = late.extend(memory[:1, None], torch.tensor([0]))[0, 0]
    expected = F.normalize(memory[0] + direction / 4, dim=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_a_support_can_be_the_hardest_sample() -> None:
    """Of an image and its support the support is less similar to the row, so the row follows it."""
    objective = begun(hard=True, momentum=0.0)
    objective.progress = 0.9
    labels = torch.tensor([1, 3])
    x = objective.memory[:, labels].transpose(0, 1).clone()
    supports = objective.extend(x, labels)[:, 0]
    objective(x, labels, torch.arange(2))
    objective.update()
    torch.testing.assert_close(objective.memory[0, labels], supports)
    without = begun(hard=True, momentum=0.0, contrast_supports=False)
    without.progress = 0.9
    before = without.memory.clone()
    without(x, labels, torch.arange(2))
    assert float(without.preserving) > 0.1, "the label-preserving loss still counts"
    without.update()
    torch.testing.assert_close(without.memory, before)


def test_with_fewer_other_clusters_than_asked_for_all_of_them_count() -> None:
    """The published code fails there."""
    objective = begun(clusters=3, neighbours=5)
    assert objective.extend(unit(4, 1, 0), torch.arange(4) % 3).shape == (8, 1, DIM)


def test_a_single_cluster_has_no_supports() -> None:
    objective = begun(clusters=1, momentum=0.0)
    x, labels = unit(4, 1, 0).requires_grad_(), torch.zeros(4, dtype=torch.int64)
    loss = objective(x, labels, torch.arange(4))
    loss.backward()
    assert float(loss) == float(objective.preserving) == 0, "there is nothing to contrast with"
    objective.update()
    torch.testing.assert_close(objective.memory[0, 0], x.detach()[3, 0])


def test_a_batch_of_one_label_has_hardly_any_label_preserving_loss() -> None:
    x = unit(4, 1, 0)
    lost = label_preserving(x, x, torch.zeros(4, dtype=torch.int64), images=4, temperature=0.6)
    assert 0 <= abs(float(lost)) < 1e-5


def test_groups_are_blocks_of_the_batch_and_whole_ones_only() -> None:
    x, labels = unit(9, 1, 1), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])

    def lost(order: list[int], images: int) -> float:
        return float(label_preserving(x[order], x[order], labels[order], images, 0.6))

    blocks, every = lost(list(range(9)), 3), lost(list(range(9)), 1)
    assert blocks < every, "only the hardest support of another label counts"
    assert lost([8, 0, 1, 2, 3, 4, 5, 6, 7], 3) != pytest.approx(blocks), "out of step"
    assert lost(list(range(9)), 2) == pytest.approx(every), "9 is no multiple of 2"
