"""Activation maps: shares sum to 1, are correct, and are drawn at the right pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.components.backbones import resnet, small, timm_model
from harness.components.backbones.pooling import band
from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone
from harness.data.augment import normalize
from harness.experiment.inspect.activation_maps import shares
from harness.results.figures.maps import draw, over_pixels

VIEWS: Any = ("global", "upper", "lower", "top", "middle", "bottom")


def pictures(count: int = 3, size: tuple[int, int] = (64, 32)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize("pooling", ["gem", "avg"])
def test_shares_are_of_the_squared_feature(pooling: Any) -> None:
    torch.manual_seed(0)
    network = small(widths=(8, 16), strides=(1, 2), pooling=pooling, views=VIEWS).eval()
    images = pictures()
    found = shares(network, images)
    assert tuple(found) == VIEWS
    with torch.no_grad():
        maps = network.trunk(normalize(images))
        pooled = network.heads.pooled(maps)
    p = 3.0 if pooling == "gem" else 1.0
    for v, (view, places) in enumerate(found.items()):
        assert torch.allclose(places.sum((1, 2)), torch.ones(3), atol=1e-4)
        rows = band(view, maps.shape[2])
        outside = np.setdiff1d(np.arange(maps.shape[2]), np.arange(rows.start, rows.stop))
        assert (places[:, outside] == 0).all() and (places >= 0).all()
        # one position, channel by channel, by the formula of the module
        y, x, total = rows.start, 1, 0.0
        for c in range(maps.shape[1]):
            squared = float(pooled[0, v, c] ** 2 / (pooled[0, v] ** 2).sum())
            there = maps[0, c, rows].clamp(min=1e-6 if pooling == "gem" else 0) ** p
            total += squared * float(there[0, x] / there.sum().clamp(min=1e-12))
        assert float(places[0, y, x]) == pytest.approx(total, rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("pooling", ["avg", "class_token"])
def test_shares_of_patch_tokens(pooling: Any) -> None:
    """Of transformers, whose tokens have either sign."""
    torch.manual_seed(0)
    views: Any = ("global", "upper")
    network = timm_model("test_vit", (96, 64), pooling=pooling, views=views).eval()
    images = pictures(3, (96, 64))
    found = shares(network, images)
    with torch.no_grad():
        maps, token = network.map_and_token(normalize(images, network.preprocessing))
    feature = token if pooling == "class_token" else maps.mean((2, 3))
    assert feature is not None and (maps < 0).any()
    agreement = torch.einsum("nchw,nc->nhw", maps, feature).clamp(min=0)
    expected = agreement / agreement.sum((1, 2), keepdim=True)
    torch.testing.assert_close(found["global"], expected, rtol=1e-4, atol=1e-6)
    assert found["global"].shape == (3, 6, 4) and (found["upper"][:, 3:] == 0).all()


def test_pooled_is_no_region() -> None:
    network = small(widths=(8, 16), strides=(1, 2), views=("global", "pooled")).eval()
    assert list(shares(network, pictures(1))) == ["global"]


class Foreign(Backbone):
    """A backbone from elsewhere."""

    views, dim = ("global",), 4

    def forward(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))[:, None]


def test_other_networks_are_refused() -> None:
    with pytest.raises(ConfigError, match="no feature map"):
        shares(Foreign(), pictures(1))


@pytest.mark.parametrize("name", ["small", "resnet18"])
def test_a_position_is_drawn_where_it_looks(name: str) -> None:
    """The center of a position's receptive field is the pixel where its share is drawn in full."""
    torch.manual_seed(0)
    network = small() if name == "small" else resnet("resnet18", weights="none")
    size = (64, 32) if name == "small" else (128, 64)
    inputs = torch.rand(2, 3, *size, requires_grad=True)
    maps = network.eval().trunk(inputs)
    high, wide = maps.shape[2:]
    y, x = high // 2, wide // 2
    (gradient,) = torch.autograd.grad(maps[:, :, y, x].sum(), inputs)
    depends = gradient.abs().sum((0, 1))
    rows, columns = torch.arange(size[0]), torch.arange(size[1])
    center = [float((depends.sum(1) * rows).sum() / depends.sum()),
              float((depends.sum(0) * columns).sum() / depends.sum())]  # fmt: skip
    places = np.zeros((high, wide))
    places[y, x] = 1.0
    drawn = over_pixels(places, *size, slice(0, high))
    top, left = np.unravel_index(drawn.argmax(), drawn.shape)
    assert drawn.max() == 1.0
    step = size[0] / high
    assert abs(center[0] - top) < step / 4 and abs(center[1] - left) < step / 4


def test_a_band_keeps_to_itself() -> None:
    places = np.arange(8.0)[:, None].repeat(2, 1)
    drawn = over_pixels(places, 32, 8, slice(4, 8))
    assert drawn.shape == (32, 8)
    assert drawn.min() == 4.0 and drawn[-1].max() == 7.0


def test_picture() -> None:
    images = pictures(2)
    network = small(widths=(8, 16), strides=(1, 2), views=("global", "upper", "lower")).eval()
    maps = {view: share.numpy() for view, share in shares(network, images).items()}
    rows = {view: band(view, share.shape[1]) for view, share in maps.items()}
    picture = draw(images, maps, rows, "title")
    assert [axes.get_title(loc="center") for axes in picture.axes[:4]] == [
        "image", "global", "upper", "lower",
    ]  # fmt: skip
    upper = np.asarray(picture.axes[2].images[0].get_array())
    assert upper.shape == (64, 32, 3)
    assert upper[32:].min() >= 0.75, "the lower half is outside of the view, so it is pale"
