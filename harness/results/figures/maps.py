"""Activation maps of the views: which places of an image a view's feature comes from.

A pooled feature is g_c = (mean over places of x_c^p)^(1/p) (GeM; p = 1 is the average). Place s
gives channel c the share x_c(s)^p / Σ x_c^p, and channel c gives the squared norm of g the share
g_c² / ‖g‖². Drawn is h(s) = Σ_c g_c² / ‖g‖² · x_c(s)^p / Σ_s x_c(s)^p, which adds up to 1 over the
view's places. No label is needed, and no gradient. It is of the feature before the neck, which
rescales channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from harness.components.backbones.pooling import band
from harness.components.backbones.resnet import ReIDNet
from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone
from harness.data.augment import normalize
from harness.results.figures.style import FAINT, drawn, figure, fill, heading

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@torch.no_grad()
def shares(network: Backbone, images: np.ndarray) -> dict[str, Tensor]:
    """View → (N, h, w) shares of the places of the feature map, 0 outside of the view's rows.

    Args:
        images: (N, H, W, 3) uint8.

    Raises:
        ConfigError: the network does not pool a feature map by bands, so nothing can be said.
    """
    if not isinstance(network, ReIDNet):
        raise ConfigError(
            f"{type(network).__name__} has no feature map that is pooled by views.",
            "Activation maps are of the harness's own networks (resnet, small).",
        )
    device = next(network.parameters()).device
    maps = network.trunk(normalize(images, device=device)).float()
    found = {}
    for view, pool in zip(network.heads.bands, network.heads.pools, strict=True):
        rows = band(view, maps.shape[2])
        p = float(getattr(pool, "p", 1.0))
        powers = maps[:, :, rows].clamp(min=float(getattr(pool, "eps", 0.0))).pow(p)
        pooled = powers.mean(dim=(2, 3)).pow(2 / p)  # squared
        weights = pooled / pooled.sum(1, keepdim=True).clamp(min=1e-12)
        places = powers / powers.sum(dim=(2, 3), keepdim=True).clamp(min=1e-12)
        whole = maps.new_zeros(len(maps), *maps.shape[2:])
        whole[:, rows] = (weights[:, :, None, None] * places).sum(1)
        found[view] = whole.cpu()
    return found


@drawn
def draw(images: np.ndarray, found: dict[str, Tensor], title: str) -> Figure:
    """Each image, and beside it each view's shares laid over it, bright where most comes from."""
    height, width = images.shape[1:3]
    tall, columns = height / width, 1 + len(found)  # of an image, in inches
    across = max(1, min(len(images), 9 // columns))  # images beside each other
    lines = -(-len(images) // across)
    picture = figure(1.06 * columns * across, (tall + 0.08) * lines + 0.7)
    grid = picture.subplots(lines, columns * across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, image in enumerate(images):
        line, at = divmod(i, across)
        axes = grid[line][at * columns : (at + 1) * columns]
        axes[0].imshow(image)
        if line == 0:
            for place, view in zip(axes, ["image", *found], strict=True):
                place.set_title(view, fontsize=7.5, loc="center", color=FAINT)
        for place, (view, all_shares) in zip(axes[1:], found.items(), strict=True):
            _lay(place, image, all_shares[i], view)
    heading(picture, title)
    fill(picture, 0.7, wspace=0.06, hspace=0.08 / tall)
    return picture


def _lay(axes: Axes, image: np.ndarray, places: Tensor, view: str) -> None:
    """Shares over a grey image; what the view does not see is pale."""
    from matplotlib import colormaps

    height, width = image.shape[:2]
    rows = band(view, len(places))
    seen = slice(round(height * rows.start / len(places)), round(height * rows.stop / len(places)))
    heat = over_pixels(places.numpy(), height, width, rows)
    heat = heat / max(float(heat[seen].max()), 1e-12)
    grey = np.repeat((image @ np.array([0.299, 0.587, 0.114]))[..., None] / 255, 3, axis=2)
    strength = (0.15 + 0.6 * heat)[..., None]
    bright = (1 - strength) * grey + strength * colormaps["inferno"](heat)[..., :3]
    shown = 0.75 + 0.25 * grey
    shown[seen] = bright[seen]
    axes.imshow(shown.clip(0, 1))


def over_pixels(places: np.ndarray, height: int, width: int, rows: slice) -> np.ndarray:
    """Shares (h, w) at each pixel (H, W), linear between places; rows of a band stay in the band.

    Place j looks at the surroundings of pixel j·H/h, and not of (j + ½)·H/h: convolutions and pools
    with stride 2 and padding 1 are centred on every other pixel from the first.
    """
    high, wide = places.shape
    y = np.clip(np.arange(height) * high / height, rows.start, rows.stop - 1)
    x = np.clip(np.arange(width) * wide / width, 0, wide - 1)
    lines = np.stack([np.interp(x, np.arange(wide), line) for line in places])  # (h, W)
    columns = [np.interp(y, np.arange(high), column) for column in lines.T]
    return np.stack(columns, axis=1)
