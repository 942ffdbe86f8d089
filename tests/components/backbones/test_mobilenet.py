"""MobileNetV2: the size of the map, and that torchvision's weights fit and give its features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision

from harness.components.backbones import mobilenet_v2


@pytest.mark.parametrize(("last_stride", "rows"), [(1, 16), (2, 8)])
def test_the_map_of_the_usual_input(last_stride: Any, rows: int) -> None:
    network = mobilenet_v2(weights="none", last_stride=last_stride,
                           views=["global", "upper", "lower"]).eval()  # fmt: skip
    with torch.no_grad():
        maps = network.trunk(torch.zeros(1, 3, 256, 128))
        assert maps.shape == (1, 1280, rows, rows // 2)
        assert network.heads(maps).shape == (1, 3, 1280)


def test_features_are_torchvisions(tmp_path: Path) -> None:
    """Its own strides and average pooling: the vector before its classifier."""
    torch.manual_seed(0)
    whole = torchvision.models.mobilenet_v2(weights=None).eval()
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    network = mobilenet_v2(str(tmp_path / "weights.pth"), "avg", last_stride=2).eval()
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        expected = whole.features(images).mean((2, 3))
        maps = network.trunk(images)
        torch.testing.assert_close(maps.mean((2, 3)), expected, rtol=0, atol=0)
        assert network(images).shape == (2, 1, 1280)
