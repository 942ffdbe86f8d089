"""RTMem's two memories: what starts them, what they take in, and the loss as shipped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import RealTimeMemory

VIEWS, DIM, COUNT = 3, 8, 20
LABELS = torch.where(torch.arange(COUNT) % 7 == 6, -1, torch.arange(COUNT) % 4)
INDICES = torch.tensor([0, 4, 1, 5, 0, 8])  # labels 0, 0, 1, 1, 0, 0


def unit(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, VIEWS, DIM, dtype=torch.float64, generator=generator)
    return F.normalize(x, dim=-1)


def started(seed: int = 0, **options: Any) -> RealTimeMemory:
    objective = RealTimeMemory(**options)
    objective.prepare(VIEWS, DIM, COUNT)
    objective.double()
    torch.manual_seed(seed)
    objective.start_epoch(unit(COUNT, 0), LABELS)
    return objective


def losses(objective: RealTimeMemory, x: Tensor) -> Tensor:
    return objective(3 * x, LABELS[INDICES], INDICES)


def test_a_row_is_one_image_in_all_views_and_then_the_last_of_its_label() -> None:
    objective = started()
    features, memory = unit(COUNT, 0), objective.by_cluster.memory
    assert memory.shape == (VIEWS, 4, DIM)
    for label in range(4):
        same = (features == memory[:, label]).all(dim=(1, 2))
        assert same.sum() == 1 and LABELS[same].item() == label
    kept, x = memory.clone(), unit(len(INDICES), 1)
    losses(objective, x)
    objective.update()
    expected = torch.stack([x[5], x[3], kept[:, 2], kept[:, 3]], dim=1)
    torch.testing.assert_close(objective.by_cluster.memory, expected, rtol=0, atol=1e-12)
    assert torch.equal(features, unit(COUNT, 0)), "the given features stay as they are"


def test_members_are_drawn_anew_from_torchs_generator() -> None:
    rows = [started(seed).by_cluster.memory for seed in (0, 0, 1)]
    assert torch.equal(rows[0], rows[1]) and not torch.equal(rows[0], rows[2])


def test_the_instance_memory_is_filled_once_and_takes_in_the_last_of_an_image() -> None:
    objective = started()
    x = unit(len(INDICES), 1)
    losses(objective, x)
    objective.update()
    objective.start_epoch(unit(COUNT, 5), LABELS.flip(0))  # other labels and features
    expected = unit(COUNT, 0)
    for row, image in zip(x, INDICES, strict=True):
        expected[image] = row
    instances = objective.by_instance
    assert instances is not None
    torch.testing.assert_close(instances.memory, expected, rtol=0, atol=1e-12)
    assert objective.features() is None, "labels come from the network, not from the memory"
    assert "by_instance.memory" in objective.state_dict(), "it survives a kill"


@pytest.mark.parametrize("weight", [0.0, 0.2])
def test_both_terms_and_the_shipped_loss(weight: float) -> None:
    options: dict[str, Any] = {"instance_weight": 1.7, "part_weight": weight}
    both, shipped = started(**options), started(as_shipped=True, **options)
    assert shipped.by_instance is None and not shipped.state_dict()
    x = unit(len(INDICES), 1)
    cluster = both.by_cluster(x, LABELS[INDICES], INDICES)
    assert both.by_instance is not None
    instance = both.by_instance(x, LABELS[INDICES], INDICES)
    torch.testing.assert_close(losses(both, x), cluster + 1.7 * instance)
    torch.testing.assert_close(losses(shipped, x), 2.7 * cluster)


def test_shuffled_images_give_the_same_loss() -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))
    place = order.argsort()
    one, other = started(), started()
    other.start_epoch(unit(COUNT, 0)[order], LABELS[order])
    other.by_cluster.memory = one.by_cluster.memory.clone()
    assert other.by_instance is not None
    other.by_instance.memory.copy_(unit(COUNT, 0)[order])
    x = unit(len(INDICES), 1)
    ours, theirs = losses(one, x), other(3 * x, LABELS[INDICES], place[INDICES])
    torch.testing.assert_close(ours, theirs)


def test_one_cluster_and_one_image() -> None:
    objective = RealTimeMemory()
    objective.prepare(1, DIM, 3)
    features = unit(3, 0).float()[:, :1]
    objective.start_epoch(features, torch.tensor([0, -1, 0]))
    x = features[:1].clone().requires_grad_()
    loss = objective(x, torch.zeros(1, dtype=torch.int64), torch.tensor([2]))
    loss.backward()
    objective.update()
    assert torch.isfinite(loss) and x.grad is not None and torch.isfinite(x.grad).all()
