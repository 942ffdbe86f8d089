"""The teacher that follows its student; three steps of MMT's own are among the golden vectors."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from harness.components.backbones import small, timm_model
from harness.components.distillers import MeanTeacher, OfflineTeacher
from harness.components.objectives import ClusterMemory
from harness.core.interfaces import Backbone, Batch, Distiller


def _network() -> Backbone:
    torch.manual_seed(0)
    return small(widths=(4, 8), strides=(1, 2))


def _move(network: nn.Module, seed: int) -> None:
    """What an optimizer step does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


def _images(seed: int = 0) -> Tensor:
    return torch.randn(6, 3, 16, 8, generator=torch.Generator().manual_seed(seed))


def _loss(teacher: Distiller, student: Tensor, seed: int = 0) -> Tensor:
    nothing = torch.zeros(6, dtype=torch.int64)
    return teacher(student, Batch(_images(seed), nothing, nothing), ClusterMemory())


@pytest.mark.parametrize("kind", ["drop_path", "drop_rate"])
def test_the_teacher_of_a_batch_is_not_random(kind: str) -> None:
    """Stochastic depth and dropout are off, the statistics are those of the batch."""
    torch.manual_seed(0)
    student = timm_model("test_vit", (32, 32), drop_path=0.5)
    if kind == "drop_rate":
        student.trunk.model.pos_drop = nn.Dropout(0.5)
    teacher = MeanTeacher(copy.deepcopy(student))
    teacher.start_epoch(0)
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(teacher.teacher(images), teacher.teacher(images))
    assert teacher.teacher.training
    student.train()
    assert not torch.equal(student(images), student(images))


@pytest.mark.parametrize("ramp", [True, False])
def test_parameters_follow_and_statistics_do_not(ramp: bool) -> None:
    student = _network()
    teacher = MeanTeacher(copy.deepcopy(student), alpha=0.6, ramp=ramp)
    teacher.start_epoch(0)
    expected = {name: p.detach().clone() for name, p in student.named_parameters()}
    statistics = {name: b.clone() for name, b in teacher.teacher.named_buffers()}
    for g in range(5):
        _move(student, g)
        student.train()(_images())
        teacher.step(student)
        a = min(1 - 1 / (g + 1), 0.6) if ramp else 0.6
        for name, parameter in student.named_parameters():
            expected[name] = a * expected[name] + (1 - a) * parameter.detach()
        for name, parameter in teacher.teacher.named_parameters():
            torch.testing.assert_close(parameter, expected[name])
            assert not parameter.requires_grad
    for name, buffer in teacher.teacher.named_buffers():
        assert torch.equal(buffer, statistics[name]), "its own, and it has seen nothing"
    _loss(teacher, student(_images()))
    assert any(not torch.equal(b, statistics[n]) for n, b in teacher.teacher.named_buffers())


def test_with_eval_the_statistics_are_the_students() -> None:
    student = _network()
    teacher = MeanTeacher(copy.deepcopy(student), batch_norm="eval")
    teacher.start_epoch(0)
    assert not teacher.teacher.training
    student.train()(_images())
    teacher.step(student)
    theirs = dict(student.named_buffers())
    for name, buffer in teacher.teacher.named_buffers():
        assert torch.equal(buffer, theirs[name])
    student.eval()
    # the first step with a ramp copies: the same function now
    assert float(_loss(teacher, student(_images(1)), 1).detach()) == pytest.approx(0, abs=1e-10)


def test_the_count_of_steps_survives_a_checkpoint() -> None:
    student = _network()
    teacher = MeanTeacher(copy.deepcopy(student), alpha=0.99)
    for g in range(3):
        _move(student, g)
        teacher.step(student)
    assert teacher.momentum == 0.75
    resumed = MeanTeacher(_network(), alpha=0.99)
    resumed.load_state_dict(teacher.state_dict())
    assert resumed.momentum == 0.75
    for other in (teacher, resumed):
        other.step(student)
    pairs = zip(teacher.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_distance_is_that_of_an_offline_teacher() -> None:
    network, student = _network(), torch.randn(6, 1, 8)
    mean = MeanTeacher(copy.deepcopy(network), weight=0.5)
    offline = OfflineTeacher(copy.deepcopy(network), weight=0.5)
    for teacher in (mean, offline):
        teacher.start_epoch(0)
    assert torch.equal(_loss(mean, student), _loss(offline, student))
