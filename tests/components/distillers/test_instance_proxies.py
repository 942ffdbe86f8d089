"""DCMIP's instance proxies, against the walk through the batch; golden vectors have two steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from harness.components.backbones import small
from harness.components.distillers import InstanceProxies
from harness.components.distillers.instance_proxies import draw_members
from harness.components.objectives import ClusterMemory
from harness.core.interfaces import Backbone, Batch

DIM = 8


def _network(views: Any = ("global",)) -> Backbone:
    torch.manual_seed(0)
    return small(widths=(4, DIM), strides=(1, 2), views=views)


def _begun(labels: Tensor, views: Any = ("global",), **options: Any) -> InstanceProxies:
    """In an epoch of random features of these labels."""
    distiller = InstanceProxies(_network(views), **options)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(len(labels), len(views), DIM, generator=generator)
    distiller.relabel(F.normalize(features, dim=-1), labels)
    distiller.start_epoch(0)
    return distiller


def _batch(labels: Tensor) -> Batch:
    images = torch.randn(len(labels), 3, 16, 8, generator=torch.Generator().manual_seed(2))
    return Batch(images, labels, torch.arange(len(labels)))


def _teach(distiller: InstanceProxies, student: Tensor, labels: Tensor) -> Tensor:
    return distiller(student, _batch(labels), ClusterMemory())


# ------------------------------------------------------------------------------------- the loss


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(0, 2**31))
def test_the_loss_takes_the_least_similar_of_its_own_and_the_most_similar_of_others(
    labels: list[int], seed: int
) -> None:
    views = ("global", "upper")
    distiller = _begun(
        torch.arange(20) % 5, views, instances=3, temperature=0.5, part_weight=0.25,
        batch_norm="eval",
    )  # fmt: skip
    student = torch.randn(len(labels), 2, DIM, generator=torch.Generator().manual_seed(seed))
    student.requires_grad_()
    expected = torch.zeros(())
    for b, y in enumerate(labels):
        for v, weight in enumerate((0.75, 0.25)):
            logits = []
            for c in range(5):
                similar = [
                    F.normalize(student[b, v], dim=0) @ p for p in distiller.proxies[v, :, c]
                ]
                logits.append((min(similar) if c == y else max(similar)) / 0.5)
            loss = torch.logsumexp(torch.stack(logits), 0) - logits[y]
            expected = expected + weight * loss / len(labels)
    loss = _teach(distiller, student, torch.tensor(labels))
    torch.testing.assert_close(loss, expected)
    grads = [torch.autograd.grad(each, student)[0] for each in (loss, expected)]
    torch.testing.assert_close(*grads)


def test_one_cluster_alone_teaches_nothing() -> None:
    distiller = _begun(torch.zeros(6, dtype=torch.int64))
    student = torch.randn(4, 1, DIM, requires_grad=True)
    loss = _teach(distiller, student, torch.zeros(4, dtype=torch.int64))
    loss.backward()
    assert loss == 0 and student.grad is not None and not student.grad.any()


# ------------------------------------------------------------------------------------ the proxies


def test_an_epoch_starts_with_members_of_each_cluster() -> None:
    labels = torch.tensor([0, -1, 1, 1, -1, 2, 2, 2, 2, 2])
    features = F.normalize(torch.randn(10, 2, DIM), dim=-1)
    distiller = InstanceProxies(_network(("global", "upper")), instances=40)
    torch.manual_seed(3)
    distiller.relabel(features, labels)
    assert distiller.proxies.shape == (2, 40, 3, DIM)
    for c in range(3):
        members = {tuple(row) for row in features[labels == c].flatten(1).tolist()}
        rows = distiller.proxies[:, :, c].transpose(0, 1).flatten(1).tolist()
        assert {tuple(row) for row in rows} == members, "each of them in 40 draws"
    first = distiller.proxies
    torch.manual_seed(3)
    distiller.relabel(features, labels)
    assert torch.equal(distiller.proxies, first), "the same from the same seed"


def test_a_step_replaces_the_labels_of_the_batch_by_its_samples() -> None:
    labels = torch.tensor([3, 0, 3, 0, 0])
    distiller = _begun(torch.arange(20) % 5, instances=6, batch_norm="eval")
    before = distiller.proxies.clone()
    student = torch.randn(5, 1, DIM)
    _teach(distiller, student, labels)
    assert torch.equal(distiller.proxies, before), "they change after the gradient"
    distiller.step(_network(), ClusterMemory())
    unit = F.normalize(student, dim=-1)
    for c in range(5):
        rows = distiller.proxies[0, :, c]
        if c in labels:
            own = unit[labels == c, 0]
            assert all(any(torch.equal(row, sample) for sample in own) for row in rows)
        else:
            assert torch.equal(rows, before[0, :, c])
    after = distiller.proxies.clone()
    distiller.step(_network(), ClusterMemory())  # without a batch
    assert torch.equal(distiller.proxies, after)


def test_warm_up_epochs_leave_them() -> None:
    distiller = _begun(torch.arange(20) % 5)
    distiller.start_epoch(-1)
    before = distiller.proxies.clone()
    _teach(distiller, torch.randn(4, 1, DIM), torch.tensor([0, 0, 1, 1]))
    distiller.step(_network(), ClusterMemory())
    assert torch.equal(distiller.proxies, before)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 20),
    st.sampled_from([None, 1, 16]), st.integers(0, 2**31),
)  # fmt: skip
def test_draws(labels: list[int], count: int, all_different: int | None, seed: int) -> None:
    torch.manual_seed(seed)
    drawn = draw_members(torch.tensor(labels), 5, count, all_different)
    assert drawn.shape == (count, 5)
    for c in set(labels):
        column = drawn[:, c].tolist()
        assert all(labels[i] == c for i in column)
        if all_different is not None and labels.count(c) >= max(all_different, count):
            assert len(set(column)) == count


def test_draws_are_even() -> None:
    """Each member as often as another, alone and beside each other."""
    torch.manual_seed(0)
    labels = torch.tensor([1, 0, 1, 1, 0])
    for all_different in (None, 1):
        draws = [draw_members(labels, 2, 2, all_different) for _ in range(3000)]
        pairs = torch.stack([d[:, 1] for d in draws])
        for place in range(2):
            shares = torch.bincount(pairs[:, place], minlength=5)[[0, 2, 3]] / 3000
            torch.testing.assert_close(shares, torch.full((3,), 1 / 3), rtol=0, atol=0.04)
        same = (pairs[:, 0] == pairs[:, 1]).float().mean()
        assert float(same) == pytest.approx(0 if all_different else 1 / 3, abs=0.04)


def test_more_instances_than_samples_are_drawn_with_replacement() -> None:
    """As published this stops with an error for 16 samples and more."""
    labels = torch.zeros(16, dtype=torch.int64)
    drawn = draw_members(labels, 1, 17, 16)
    assert drawn.shape == (17, 1) and len(set(drawn[:, 0].tolist())) < 17


# ------------------------------------------------------------------------------------ the teacher


def test_only_its_statistics_follow_the_batch() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    for mode in ("train", "eval"):
        distiller = _begun(torch.arange(20) % 5, batch_norm=mode)
        expected = copy.deepcopy(distiller.teacher)
        if mode == "train":
            expected(_batch(labels).images)
        student = torch.randn(4, 1, DIM)
        loss = _teach(distiller, student, labels)
        for ours, theirs in zip(
            distiller.teacher.state_dict().values(), expected.state_dict().values(), strict=True
        ):
            assert torch.equal(ours, theirs)
        assert loss == distiller.contrast(F.normalize(student, dim=-1), labels)


def test_the_student_labels_and_the_teacher_relabels_and_is_tested() -> None:
    distiller = InstanceProxies(_network())
    assert distiller.labeled_by == ()
    assert distiller.relabeled_by is distiller.teacher
    assert distiller.tested == ("mean teacher", distiller.teacher)
