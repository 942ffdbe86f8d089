"""Activation maps of the views: which positions of an image a view's feature comes from.

A pooled feature is g_c = (mean over positions of x_c^p)^(1/p) (GeM; p = 1 is average pooling).
Position s contributes the share x_c(s)^p / Σ x_c^p to channel c, and channel c contributes
g_c² / ‖g‖² to the squared norm of g. The map is h(s) = Σ_c g_c² / ‖g‖² · x_c(s)^p / Σ_s x_c(s)^p,
which sums to 1 over the view's positions. It needs neither labels nor gradients, and describes the
feature before the neck, which rescales channels.

For p = 1 this is ⟨x(s), g⟩ / Σ ⟨x(s), g⟩. The patch tokens of transformers have either sign, so
positions against the feature count as 0. Where the feature is a class token, which is no mean of
patch tokens, the map shows which of them agree with it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from harness.components.backbones.pooling import GeM, band
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
            "Activation maps work for the harness's own backbones (harness list backbones).",
        )
    device = next(network.parameters()).device
    inputs = normalize(images, network.preprocessing, device=device)
    maps, token = network.map_and_token(inputs)
    maps, pooled = maps.float(), network.heads.pooled(maps, token)
    found = {}
    for place, (view, pool) in enumerate(
        zip(network.heads.bands, network.heads.pools, strict=True)
    ):
        rows = band(view, maps.shape[2])
        whole = maps.new_zeros(len(maps), *maps.shape[2:])
        whole[:, rows] = _shares(maps[:, :, rows], pooled[:, place], pool)
        found[view] = whole.cpu()
    return found


def _shares(maps: Tensor, pooled: Tensor, pool: nn.Module) -> Tensor:
    """Shares (N, h, w) of the positions of maps (N, C, h, w) in pooled features (N, C)."""
    if isinstance(pool, GeM):
        powers = maps.clamp(min=pool.eps).pow(pool.p)
        weights = pooled.square()[:, :, None, None]
        positions = powers / powers.sum(dim=(2, 3), keepdim=True).clamp(min=1e-12)
        parts = (weights * positions).sum(1)
    else:
        parts = (maps * pooled[:, :, None, None]).sum(1).clamp(min=0.0)
    return parts / parts.sum(dim=(1, 2), keepdim=True).clamp(min=1e-12)
