"""Activation maps of the views: which positions of an image a view's feature comes from.

A pooled feature is g_c = (mean over positions of x_c^p)^(1/p) (GeM; p = 1 is average pooling).
Position s contributes the share x_c(s)^p / Σ x_c^p to channel c, and channel c contributes
g_c² / ‖g‖² to the squared norm of g. The map is h(s) = Σ_c g_c² / ‖g‖² · x_c(s)^p / Σ_s x_c(s)^p,
which sums to 1 over the view's positions. It needs neither labels nor gradients, and describes the
feature before the neck, which rescales channels.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from harness.components.backbones.pooling import band
from harness.components.backbones.reid_net import ReIDNet
from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone
from harness.data.augment import normalize


@torch.no_grad()
def shares(network: Backbone, images: np.ndarray) -> dict[str, Tensor]:
    """View → shares (N, h, w) of the positions of the feature map, 0 outside of the view's rows.

    Args:
        images: (N, H, W, 3) uint8.

    Raises:
        ConfigError: the network does not pool horizontal bands of a feature map.
    """
    if not isinstance(network, ReIDNet):
        raise ConfigError(
            f"{type(network).__name__} has no feature map that is pooled by views.",
            "Activation maps work for the harness's own backbones (resnet, small).",
        )
    device = next(network.parameters()).device
    maps = network.trunk(normalize(images, network.preprocessing, device=device)).float()
    found = {}
    for view, pool in zip(network.heads.bands, network.heads.pools, strict=True):
        rows = band(view, maps.shape[2])
        p = float(getattr(pool, "p", 1.0))
        powers = maps[:, :, rows].clamp(min=float(getattr(pool, "eps", 0.0))).pow(p)
        pooled = powers.mean(dim=(2, 3)).pow(2 / p)  # squared
        weights = pooled / pooled.sum(1, keepdim=True).clamp(min=1e-12)
        positions = powers / powers.sum(dim=(2, 3), keepdim=True).clamp(min=1e-12)
        whole = maps.new_zeros(len(maps), *maps.shape[2:])
        whole[:, rows] = (weights[:, :, None, None] * positions).sum(1)
        found[view] = whole.cpu()
    return found
