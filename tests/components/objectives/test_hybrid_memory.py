"""SpCL's memory against its definition, row by row."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import HybridMemory

IMAGES, DIM = 14, 4
labels_of_all = st.lists(st.integers(-1, 6), min_size=IMAGES, max_size=IMAGES).filter(
    lambda labels: max(labels) >= 0
)
seeds = st.integers(0, 2**31)


def _unit(count: int, seed: int, views: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, views, DIM, dtype=torch.float64, generator=generator)
    return F.normalize(x, dim=-1)


def _objective(features: Tensor, labels: Tensor, **options: Any) -> HybridMemory:
    objective = HybridMemory(**options)
    objective.prepare(features.shape[1], DIM, len(features))
    objective.double()
    objective.start_epoch(features, labels)
    return objective


def _expected(
    memory: Tensor, labels: list[int], x: Tensor, image: int, tau: float, reduce: str
) -> float:
    """The loss of one image, with the B×N products that its definition has."""
    groups: dict[object, list[int]] = {}
    for i, label in enumerate(labels):
        groups.setdefault(label if label >= 0 else f"alone {i}", []).append(i)
    own = next(rows for rows in groups.values() if image in rows)

    def power(rows: list[int]) -> Tensor:
        scores = memory[rows] @ x / tau
        return scores.mean().exp() if reduce == "mean" else scores.exp().sum()

    share = power(own) / (torch.stack([power(rows) for rows in groups.values()]).sum() + 1e-6)
    return float(-(share + 1e-6).log())


@given(labels_of_all, seeds, st.sampled_from([0.05, 0.5]), st.sampled_from(["mean", "sum"]))
def test_the_loss_is_its_definition(labels: list[int], seed: int, tau: float, reduce: str) -> None:
    memory, x = _unit(IMAGES, seed), _unit(6, seed + 1)
    objective = _objective(memory, torch.tensor(labels), temperature=tau, reduce=reduce)
    indices = torch.tensor([0, 3, 3, 7, 9, 13])
    loss = objective.contrast(x, indices)
    expected = [
        _expected(memory[:, 0], labels, v, int(i), tau, reduce)
        for v, i in zip(x[:, 0], indices, strict=True)
    ]
    assert float(loss) == pytest.approx(sum(expected) / 6, abs=1e-10)


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_a_low_temperature_does_not_overflow_float32(reduce: Literal["mean", "sum"]) -> None:
    memory = _unit(IMAGES, 0).float()
    objective = HybridMemory(temperature=0.005, reduce=reduce)
    objective.prepare(1, DIM, IMAGES)
    objective.start_epoch(memory, torch.arange(IMAGES))
    x = memory[:4].clone().requires_grad_()
    loss = objective(x, torch.arange(4), torch.arange(4))
    loss.backward()
    assert torch.isfinite(loss) and x.grad is not None and torch.isfinite(x.grad).all()


def test_rows_follow_their_images_and_live_on() -> None:
    features, labels = _unit(IMAGES, 0), torch.arange(IMAGES) // 2
    objective = _objective(features, labels, momentum=0.2)
    assert objective.features() is None, "nothing was taken in: extract"
    indices = torch.tensor([4, 2, 4])
    x = 3 * _unit(3, 1)
    objective(x, labels[indices], indices)
    objective.update()
    expected = features.clone()
    for feature, i in zip(x / 3, indices, strict=True):
        expected[i] = F.normalize(0.2 * expected[i] + 0.8 * feature, dim=-1)
    torch.testing.assert_close(objective.memory, expected, rtol=0, atol=1e-12)
    kept = objective.features()
    assert kept is not None and kept.shape == (IMAGES, 1, DIM)
    objective.start_epoch(_unit(IMAGES, 5), labels.flip(0))  # other labels and features
    torch.testing.assert_close(objective.memory, expected, rtol=0, atol=1e-12)


def test_warm_up_leaves_it_to_be_filled_anew() -> None:
    """A warm-up epoch has the teacher's features; the student's come after it."""
    labels = torch.arange(IMAGES) // 2
    objective = _objective(_unit(IMAGES, 0), labels)
    objective(_unit(3, 1), labels[:3], torch.arange(3))
    objective.update(frozen=True)
    assert torch.equal(objective.memory, _unit(IMAGES, 0))
    assert objective.features() is None
    objective.start_epoch(_unit(IMAGES, 5), labels)
    assert torch.equal(objective.memory, _unit(IMAGES, 5))


def test_the_given_features_stay_as_they_are() -> None:
    features = _unit(IMAGES, 0)
    objective = _objective(features, torch.arange(IMAGES))
    objective(_unit(3, 1), torch.arange(3), torch.arange(3))
    objective.update()
    assert torch.equal(features, _unit(IMAGES, 0))


@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_each_view_has_its_own_memory(reduce: str) -> None:
    features, labels = _unit(IMAGES, 0, views=3), torch.arange(IMAGES) // 2
    x, indices = _unit(5, 1, views=3), torch.arange(5)
    whole = _objective(features, labels, part_weight=0.2, reduce=reduce)
    loss = float(whole.contrast(x, indices))
    single = [
        float(_objective(view, labels, reduce=reduce).contrast(own, indices))
        for view, own in zip(features.split(1, dim=1), x.split(1, dim=1), strict=True)
    ]
    assert loss == pytest.approx(0.8 * single[0] + 0.2 * single[1] + 0.2 * single[2], abs=1e-12)


# ------------------------------------------------------------------------- a labeled source


def _dense(
    memory: Tensor, labels: Tensor, x: Tensor, rows: Tensor, tau: float, mu: float
) -> tuple[Tensor, Tensor]:
    """SpCL's unified memory as its definition has it: the loss of each image, and the new memory.

    One row per source class, then one per target image; labels (rows,) are all in use.
    """
    similarity = x @ memory.T / tau
    powers = torch.stack(
        [similarity[:, labels == label].mean(dim=1).exp() for label in labels.unique()], dim=1
    )
    own = powers.gather(1, torch.searchsorted(labels.unique(), labels[rows])[:, None])[:, 0]
    loss = -(own / (powers.sum(dim=1) + 1e-6) + 1e-6).log()
    after = memory.clone()
    for feature, row in zip(x.detach(), rows, strict=True):
        after[row] = F.normalize(mu * after[row] + (1 - mu) * feature, dim=-1)
    return loss, after


@pytest.mark.parametrize("tau", [0.05, 0.5])
def test_source_classes_share_the_memory_and_the_denominator(tau: float) -> None:
    classes, source, target = 3, _unit(9, 1), _unit(IMAGES, 2)
    identities = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2])
    labels = torch.tensor([0, 0, 0, 1, 1, 1, -1, -1, 2, 2, 2, 2, 0, -1])
    objective = HybridMemory(temperature=tau, momentum=0.2)
    objective.source_classes = classes
    objective.prepare(1, DIM, IMAGES)
    objective.double()
    objective.start_source(source, identities)
    objective.start_epoch(target, labels)
    centers = [F.normalize(source[identities == c, 0].mean(dim=0), dim=-1) for c in range(classes)]
    memory = torch.cat([torch.stack(centers), target[:, 0]])
    alone = labels.clone()
    alone[labels < 0] = torch.arange(3, 6)
    joint = torch.cat([torch.arange(classes), alone + classes])
    own, images = torch.tensor([2, 2, 0]), torch.tensor([0, 5, 5, 9, 12])
    rows = torch.cat([own, images + classes])
    for step in (1, 2):
        x = (2 * _unit(len(rows), 10 + step)).requires_grad_()
        indices = torch.cat([torch.full_like(own, -1), images])
        given = torch.cat([own, labels[images] + classes])
        loss = objective(x, given, indices)
        twin = x.detach()[:, 0].clone().requires_grad_()
        expected, after = _dense(memory, joint, F.normalize(twin, dim=-1), rows, tau, 0.2)
        total = expected[:3].mean() + expected[3:].mean()
        assert float(loss.detach()) == pytest.approx(float(total.detach()), abs=1e-10)
        loss.backward()
        total.backward()
        assert x.grad is not None and twin.grad is not None
        torch.testing.assert_close(x.grad[:, 0], twin.grad, rtol=0, atol=1e-10)
        objective.update()
        memory = after
        torch.testing.assert_close(objective.memory[:, 0], memory, rtol=0, atol=1e-12)
    kept = objective.features()
    assert kept is not None and torch.equal(kept, objective.memory[classes:])
