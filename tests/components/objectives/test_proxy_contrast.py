"""ICE's loss on labels; its terms are golden vectors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import ProxyContrast
from harness.components.objectives.memory import cluster_means
from harness.components.objectives.proxies import camera_proxies, ice_camera
from harness.components.objectives.proxy_contrast import cluster_contrast
from harness.core.errors import HarnessError


def _set(views: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = F.normalize(torch.randn(20, views, 6, generator=generator), dim=-1)
    labels = torch.arange(20) % 4
    labels[3] = -1
    return features, labels, torch.arange(20) % 3


@pytest.mark.parametrize("views", [1, 3])
def test_the_loss_is_clusters_and_cameras_of_each_view(views: int) -> None:
    features, labels, cameras = _set(views)
    objective = ProxyContrast(0.4, 0.2, 0.7, 0.1, part_weight=0.25)
    objective.start_epoch(features, labels, cameras)
    indices = torch.tensor([0, 1, 2, 4, 8, 13])
    x = 3 * torch.randn(6, views, 6, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(())
    for v in range(views):
        weight = (0.75 if v == 0 else 0.25) if views > 1 else 1.0
        centers = cluster_means(features[:, v : v + 1], labels)[0]
        proxies = camera_proxies(features[:, v], labels, cameras)
        term = cluster_contrast(x[:, v], centers, labels[indices], 0.4, 0.2)
        camera = ice_camera(x[:, v], labels[indices], cameras[indices], proxies, 0.1)
        expected = expected + weight * (term + 0.7 * camera)
    torch.testing.assert_close(objective(x, labels[indices], indices), expected)
    assert objective.terms.shape == (2, views) and bool((objective.terms > 0).all())


def test_without_a_weight_cameras_are_not_looked_at() -> None:
    features, labels, _ = _set()
    objective = ProxyContrast()
    assert not objective.uses_cameras and ProxyContrast(camera_weight=0.1).uses_cameras
    objective.start_epoch(features, labels)
    assert objective.proxies is None
    objective(features[:2], labels[:2], torch.arange(2))
    assert objective.terms[1].tolist() == [0.0]


def test_one_camera() -> None:
    features, labels, cameras = _set()
    objective = ProxyContrast(camera_weight=1.0)
    objective.start_epoch(features, labels, torch.zeros_like(cameras))
    assert torch.isfinite(objective(features[:3], labels[:3], torch.arange(3)))


def test_before_an_epoch_is_explained() -> None:
    with pytest.raises(HarnessError, match="no cluster centers"):
        ProxyContrast()(torch.ones(2, 1, 6), torch.tensor([0, 1]), torch.arange(2))
