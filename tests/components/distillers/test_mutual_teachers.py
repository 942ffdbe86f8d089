"""MMT's step beside the same written out; its vectors are among the golden ones."""

from __future__ import annotations

import copy
import io

import torch
from torch import Tensor

from harness.components.backbones import small
from harness.components.backbones.reid_net import ReIDNet
from harness.components.distillers import MutualTeachers
from harness.components.objectives import SoftmaxTriplet
from harness.components.objectives.classification import soft_cross_entropy, soft_triplet
from harness.core.interfaces import Batch

LABELS = torch.tensor([0, 0, 1, 1, 2, 2])


def _network(seed: int) -> ReIDNet:
    torch.manual_seed(seed)
    return small(widths=(4, 8), strides=(1, 2), views=("global", "pooled"))


def _objective() -> SoftmaxTriplet:
    objective = SoftmaxTriplet(
        softmax_weight=0.5, triplet_weight=0.2, before_neck=True, max_clusters=5
    )
    objective.prepare(2, 8, 6)
    return objective


def _parts() -> tuple[ReIDNet, SoftmaxTriplet, MutualTeachers]:
    student, objective = _network(0), _objective()
    distiller = MutualTeachers(copy.deepcopy(student), [_network(1)], alpha=0.75)
    distiller.prepare(objective)
    features = torch.randn(6, 2, 8, generator=torch.Generator().manual_seed(2))
    objective.start_epoch(features, LABELS)
    distiller.relabel(features, LABELS)
    student.train()
    distiller.start_epoch(0)
    return student, objective, distiller


def _batch() -> Batch:
    images = torch.randn(2, 6, 3, 16, 8, generator=torch.Generator().manual_seed(3))
    return Batch(images[0], LABELS, torch.arange(6), (images[1],))


def test_each_student_learns_from_the_others_teacher() -> None:
    student, objective, distiller = _parts()
    networks = [copy.deepcopy(n) for n in (student, distiller.student, *distiller.teachers)]
    batch = _batch()
    x1, x2, t1, t2 = (
        network(images)
        for network, images in zip(networks, (batch.images, batch.others[0]) * 2, strict=True)
    )
    w = objective.classifier[0, :3]
    expected = distiller.hard(x2, LABELS, batch.indices)
    for x, t in ((x1, t2), (x2, t1)):
        expected = expected + 0.5 * soft_cross_entropy(x[:, 0] @ w.T, t[:, 0] @ w.T)
        expected = expected + 0.8 * soft_triplet(x[:, 1], LABELS, reference=t[:, 1])
    loss = distiller(student(batch.images), batch, objective)
    torch.testing.assert_close(loss, expected)


def _step(student: ReIDNet, objective: SoftmaxTriplet, distiller: MutualTeachers) -> None:
    """What the training loop does in a step, with an optimizer of its own."""
    trained = [*student.parameters(), *objective.parameters(), *distiller.parameters()]
    batch = _batch()
    x = student(batch.images)
    loss = objective(x, LABELS, batch.indices) + distiller(x, batch, objective)
    loss.backward()
    with torch.no_grad():
        for p in trained:
            if p.grad is not None:
                p.sub_(0.1 * p.grad)
                p.grad = None
    distiller.step(student, objective)


def test_networks_and_classifiers_are_averaged_alike() -> None:
    student, objective, distiller = _parts()
    sources = [(student, objective), (distiller.student, distiller.hard)]
    averages = list(zip(distiller.teachers, distiller.scorers, strict=True))
    expected: list[list[list[Tensor]]] = []
    for g in range(4):
        _step(student, objective, distiller)
        a = min(1 - 1 / (g + 1), 0.75)
        new = [[[p.detach().clone() for p in m.parameters()] for m in pair] for pair in sources]
        if not expected:
            expected = new
        expected = [
            [[a * old + (1 - a) * now for old, now in zip(*both, strict=True)]
             for both in zip(olds, news, strict=True)]
            for olds, news in zip(expected, new, strict=True)
        ]  # fmt: skip
        for pair, values in zip(averages, expected, strict=True):
            for module, parameters in zip(pair, values, strict=True):
                for p, value in zip(module.parameters(), parameters, strict=True):
                    torch.testing.assert_close(p, value)
                    assert not p.requires_grad
    assert not torch.equal(objective.classifier, distiller.hard.classifier)  # type: ignore[arg-type]


def test_a_new_epoch_sets_all_four_classifiers() -> None:
    student, objective, distiller = _parts()
    _step(student, objective, distiller)
    features = torch.randn(6, 2, 8, generator=torch.Generator().manual_seed(4))
    labels = torch.tensor([0, 0, 0, 1, 1, -1])
    objective.start_epoch(features, labels)
    distiller.relabel(features, labels)
    rows = objective.classifier[:, :2]
    for other in (distiller.hard, *distiller.scorers):
        assert torch.equal(other.classifier[:, :2], rows)
        assert other.clusters == 2


def test_a_checkpoint_holds_all_of_it() -> None:
    student, objective, distiller = _parts()
    for _ in range(2):
        _step(student, objective, distiller)
    file = io.BytesIO()
    torch.save(distiller.state_dict(), file)
    file.seek(0)
    resumed = MutualTeachers(_network(7), [_network(8)], alpha=0.75)
    resumed.prepare(_objective())
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.steps == 2
    a, b = distiller.state_dict(), resumed.state_dict()
    tensors = [key for key in a if isinstance(a[key], Tensor)]
    assert len(tensors) > 40 and all(torch.equal(a[key], b[key]) for key in tensors)


def test_modes_and_roles() -> None:
    student, _, distiller = _parts()
    assert distiller.student.training and all(t.training for t in distiller.teachers)
    assert distiller.labeled_by == distiller.teachers
    assert distiller.tested == ("mean teacher of the first student", distiller.teachers[0])
    assert all(torch.equal(a, b) for a, b in zip(
        student.parameters(), distiller.teachers[0].parameters(), strict=True))  # fmt: skip
    quiet = MutualTeachers(_network(0), [_network(1)], batch_norm="eval")
    quiet.start_epoch(0)
    assert quiet.student.training and not any(t.training for t in quiet.teachers)
