"""CAP's objective: when which term counts, and what its memory does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import CameraProxies
from harness.core.errors import HarnessError

LABELS, CAMERAS = torch.arange(24) % 4, torch.arange(24) % 3
LABELS = torch.where(torch.arange(24) == 7, -1, LABELS)
INDICES = torch.tensor([0, 1, 2, 3, 4, 12, 12])


def features(views: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(24, views, 8, generator=generator), dim=-1)


def loss(objective: CameraProxies, views: int = 1) -> float:
    x = features(views)[INDICES].flip(-1)
    return float(objective(x, LABELS[INDICES], INDICES))


def begun(epochs: int, **options: float) -> CameraProxies:
    objective = CameraProxies(**options)  # type: ignore[arg-type]
    for _ in range(epochs):
        objective.start_epoch(features(), LABELS, CAMERAS)
    return objective


def test_the_term_across_cameras_comes_in_after_its_epochs() -> None:
    early, last, first = begun(1), begun(5), begun(6)
    assert [o.has_inter_camera for o in (early, last, first)] == [False, False, True]
    assert loss(early) == loss(last) < loss(first)
    assert begun(1, inter_epoch=0).has_inter_camera


def test_a_resumed_run_counts_on() -> None:
    resumed = CameraProxies()
    resumed.load_state_dict(begun(5).state_dict())
    resumed.start_epoch(features(), LABELS, CAMERAS)
    assert resumed.has_inter_camera


def test_each_image_moves_its_own_proxy_in_batch_order() -> None:
    objective = begun(1, momentum=0.2)
    assert objective.proxies is not None
    expected = objective.proxies.features[0].clone()
    x = F.normalize(features()[INDICES].flip(-1), dim=-1)[:, 0]
    for feature, own in zip(x, objective.proxies.of_image[INDICES].tolist(), strict=True):
        expected[own] = F.normalize(0.2 * expected[own] + 0.8 * feature, dim=-1)
    loss(objective)
    objective.update()
    torch.testing.assert_close(objective.proxies.features[0], expected)
    before = objective.proxies.features.clone()
    objective.update()
    assert torch.equal(objective.proxies.features, before), "a batch is taken in once"


def test_parts_are_weighed_like_cluster_memorys() -> None:
    def of(part_weight: float) -> float:
        objective = CameraProxies(part_weight=part_weight)
        objective.start_epoch(features(3), LABELS, CAMERAS)
        return loss(objective, 3)

    whole, parts = of(0.0), of(1.0)
    assert of(0.2) == pytest.approx(0.8 * whole + 0.2 * parts)


def test_it_wants_cameras_and_a_begun_epoch() -> None:
    assert CameraProxies.needs_cameras({})
    with pytest.raises(HarnessError, match="each image's camera"):
        CameraProxies().start_epoch(features(), LABELS, None)
    with pytest.raises(HarnessError, match="no proxies"):
        loss(CameraProxies())
