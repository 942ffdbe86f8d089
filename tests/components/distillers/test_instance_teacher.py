"""ICE's teacher: what it sees, in which order, and what follows; losses are golden vectors."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from harness.components.backbones import set_samples_per_bn, small
from harness.components.distillers import InstanceTeacher
from harness.components.objectives import ClusterMemory
from harness.components.objectives.proxy_contrast import consistency, hard_instance
from harness.core.interfaces import Backbone, Batch

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])


def _network(views: Any = ("global",)) -> Backbone:
    torch.manual_seed(0)
    return small(widths=(4, 8), strides=(1, 2), views=views)


def _batch() -> Batch:
    images = torch.randn(3, 8, 3, 16, 8, generator=torch.Generator().manual_seed(1))
    return Batch(images[0], LABELS, torch.arange(8), (images[1],), images[2])


def test_the_loss_is_of_two_augmentations_and_the_plain_image() -> None:
    batch, views = _batch(), ("global", "upper")
    distiller = InstanceTeacher(
        _network(views), hard_weight=0.5, soft_weight=2.0, hard_temperature=0.2,
        soft_temperature=0.3, soft_factor=4.0, part_weight=0.25,
    )  # fmt: skip
    distiller.start_epoch(0)
    teacher, student = copy.deepcopy(distiller.teacher), torch.randn(8, 2, 8)
    assert batch.plain is not None
    y, u = teacher(batch.others[0]), teacher(batch.plain)
    expected = torch.zeros(())
    for v, weight in enumerate((0.75, 0.25)):
        x = student[:, v]
        hard = hard_instance(x, y[:, v], LABELS, 0.2)
        soft = consistency(x, y[:, v], u[:, v], 0.3, 4.0)
        expected = expected + weight * (0.5 * hard + 2.0 * soft)
    loss = distiller(student, batch, ClusterMemory())
    torch.testing.assert_close(loss, expected)


def test_statistics_follow_all_three_passes_and_parameters_none() -> None:
    batch = _batch()
    distiller = InstanceTeacher(_network())
    distiller.start_epoch(0)
    expected = copy.deepcopy(distiller.teacher)
    assert batch.plain is not None
    for images in (batch.images, batch.others[0], batch.plain):
        expected(images)
    distiller(torch.randn(8, 1, 8), batch, ClusterMemory())
    for (name, ours), theirs in zip(
        distiller.teacher.state_dict().items(), expected.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_running_statistics_are_not_touched_with_eval() -> None:
    distiller = InstanceTeacher(_network(), batch_norm="eval")
    distiller.start_epoch(0)
    before = copy.deepcopy(distiller.teacher.state_dict())
    distiller(torch.randn(8, 1, 8), _batch(), ClusterMemory())
    assert all(torch.equal(v, before[k]) for k, v in distiller.teacher.state_dict().items())


def _embed(seed: int, distiller: InstanceTeacher) -> Tensor:
    torch.manual_seed(seed)
    return distiller._embed(_batch(), _batch().images)


def test_batches_are_permuted_before_statistics_of_parts() -> None:
    """With statistics over four images it matters which four; over all eight it does not."""
    whole = InstanceTeacher(_network())
    whole.start_epoch(0)
    torch.testing.assert_close(_embed(0, whole), _embed(1, whole))
    network = _network()
    set_samples_per_bn(network, 4)
    parts = InstanceTeacher(network)
    parts.start_epoch(0)
    assert torch.equal(_embed(0, parts), _embed(0, parts)), "the same from the same seed"
    assert not torch.allclose(_embed(0, parts), _embed(1, parts))


def test_the_teacher_labels_and_is_tested() -> None:
    distiller = InstanceTeacher(_network())
    assert distiller.labeled_by == (distiller.teacher,)
    assert distiller.tested == ("mean teacher", distiller.teacher)
