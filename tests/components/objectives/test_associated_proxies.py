"""O2CAP's objective against the loop that its definition is, and what the authors leave open."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import AssociatedProxies
from harness.core.errors import HarnessError

DIM = 6
#: of six labels, but two outliers; in four cameras, of which the last has outliers alone
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 0, 1, 2, 3, -1, -1])
CAMERAS = torch.tensor([0, 1, 0, 1, 1, 2, 2, 0, 1, 1, 2, 0, 2, 0, 1, 2, 3, 3])
INDICES = torch.tensor([0, 1, 2, 3, 5, 9, 12, 12])


def unit(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, dtype=torch.float64, generator=generator), dim=-1)


def begun(views: int = 1, seed: int = 0, **options: float) -> AssociatedProxies:
    objective = AssociatedProxies(**options)  # type: ignore[arg-type]
    objective.start_epoch(unit(len(LABELS), views, DIM, seed=seed), LABELS, CAMERAS)
    return objective


def loop(objective: AssociatedProxies, x: Tensor, view: int, indices: Tensor) -> Tensor:
    """The published walk through a batch (B, D) of one view."""
    proxies = objective.proxies
    assert proxies is not None
    memory, pairs = proxies.features[view], proxies.labels.tolist()
    cameras = proxies.cameras.tolist()
    losses: dict[int, list[Tensor]] = {}
    for feature, index in zip(x, indices.tolist(), strict=True):
        own = int(proxies.of_image[index])
        scores = memory @ feature
        mixed = objective.image_share * scores.detach()
        mixed = mixed + (1 - objective.image_share) * memory @ memory[own]
        everyone = list(range(len(pairs)))
        offline = [q for q in everyone if pairs[q] == pairs[own]]
        tops = [max((q for q in everyone if cameras[q] == camera), key=lambda q: float(mixed[q]))
                for camera in set(cameras)]  # fmt: skip
        online = sorted(tops, key=lambda q: -float(mixed[q]))[: objective.positives]
        rest = sorted((q for q in everyone if q not in online), key=lambda q: -float(mixed[q]))
        missing = max(objective.positives - len(online), 0)
        online, rest = online + rest[:missing], rest[missing:]
        hardest = sorted(
            (q for q in everyone if q not in offline), key=lambda q: -float(scores[q].detach())
        )
        total = x.new_zeros(())
        for chosen, others in ((offline, hardest), (online, rest)):
            logits = scores[chosen + others[: objective.negatives]] / objective.temperature
            total = total - logits.log_softmax(0)[: len(chosen)].mean()
        losses.setdefault(int(CAMERAS[index]), []).append(total)
    if objective.by_camera:
        return torch.stack([torch.stack(of).mean() for of in losses.values()]).sum()
    return torch.stack([loss for of in losses.values() for loss in of]).mean()


@settings(max_examples=40)
@given(
    negatives=st.integers(1, 20), positives=st.integers(1, 20), share=st.floats(0, 1),
    by_camera=st.booleans(), seed=st.integers(0, 2**20),
)  # fmt: skip
def test_it_is_the_walk_through_the_batch(
    negatives: int, positives: int, share: float, by_camera: bool, seed: int
) -> None:
    """With fewer proxies than asked for, as the authors' code cannot: all are taken."""
    objective = begun(
        2, seed, negatives=negatives, positives=positives, image_share=share, by_camera=by_camera,
        part_weight=0.3,
    )  # fmt: skip
    x = (2 * unit(len(INDICES), 2, DIM, seed=seed + 1)).requires_grad_()
    normal = F.normalize(x, dim=-1)
    expected = 0.7 * loop(objective, normal[:, 0], 0, INDICES)
    expected = expected + 0.3 * loop(objective, normal[:, 1], 1, INDICES)
    ours = objective(x, LABELS[INDICES], INDICES)
    torch.testing.assert_close(ours, expected)
    grads = [torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*grads)


def test_a_camera_of_outliers_is_passed_over() -> None:
    """As if its images did not exist; the authors' code would stop."""
    objective = begun()
    assert objective.cameras == 3
    kept = AssociatedProxies()
    inside = LABELS >= 0
    kept.start_epoch(unit(len(LABELS), 1, DIM)[inside], LABELS[inside], CAMERAS[inside])
    x = unit(len(INDICES), 1, DIM, seed=1)
    losses = [o(x, LABELS[INDICES], INDICES) for o in (objective, kept)]
    assert losses[0] == losses[1]


def test_one_proxy_has_no_loss_and_no_gradient() -> None:
    objective = AssociatedProxies()
    labels = torch.zeros(3, dtype=torch.int64)
    objective.start_epoch(unit(3, 1, DIM), labels, labels)
    x = unit(2, 1, DIM, seed=1).requires_grad_()
    loss = objective(x, labels[:2], torch.arange(2))
    loss.backward()
    assert abs(float(loss.detach())) < 1e-12
    assert x.grad is not None and float(x.grad.abs().max()) < 1e-12


def test_one_image() -> None:
    objective = begun()
    assert torch.isfinite(objective(unit(1, 1, DIM), LABELS[:1], torch.arange(1)))


def test_the_order_of_the_batch_does_not_matter_for_the_loss() -> None:
    objective, x = begun(), unit(len(INDICES), 1, DIM, seed=1)
    order = torch.randperm(len(INDICES), generator=torch.Generator().manual_seed(0))
    one = objective(x, LABELS[INDICES], INDICES)
    other = objective(x[order], LABELS[INDICES[order]], INDICES[order])
    torch.testing.assert_close(one, other)


def test_each_image_moves_its_own_proxy() -> None:
    objective = begun(momentum=0.3)
    assert objective.proxies is not None
    expected = objective.proxies.features[0].clone()
    x = unit(len(INDICES), 1, DIM, seed=1)
    for feature, own in zip(x[:, 0], objective.proxies.of_image[INDICES].tolist(), strict=True):
        expected[own] = F.normalize(0.3 * expected[own] + 0.7 * feature, dim=-1)
    objective(x, LABELS[INDICES], INDICES)
    objective.update()
    torch.testing.assert_close(objective.proxies.features[0], expected)


def test_it_wants_cameras_and_a_begun_epoch() -> None:
    assert AssociatedProxies.needs_cameras({})
    with pytest.raises(HarnessError, match="AssociatedProxies has no proxies"):
        AssociatedProxies()(unit(2, 1, DIM), LABELS[:2], torch.arange(2))
