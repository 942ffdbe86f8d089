"""From a feature map to one embedding per view: pooling, and the neck.

Views are horizontal bands of the map. As in MSKD (arXiv 2204.09931) `global` is all rows, `upper`
the first ⌊H/2⌋, `lower` the next ⌊H/2⌋ (an odd last row belongs to the global view alone). As in
PPLR (CVPR 2022) `top`, `middle` and `bottom` are thirds: rows ⌊iH/3⌋ to ⌈(i+1)H/3⌉, which share
rows where 3 does not divide H (adaptive pooling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from harness.errors import ConfigError, did_you_mean

VIEWS = ("global", "upper", "lower")
THIRDS = ("top", "middle", "bottom")


class GeM(nn.Module):
    """Generalised-mean pooling, g = (mean over positions of max(x, eps)^p)^(1/p).

    (B, C, H, W) → (B, C). Radenović et al., TPAMI 2019, eq. 3; p is one learned number from 3.
    Powers are taken in fp32 (fp64 stays) whatever the precision of the map.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            maps = maps if maps.dtype == torch.float64 else maps.float()
            return maps.clamp(min=self.eps).pow(self.p).mean(dim=(2, 3)).pow(1.0 / self.p)


class AveragePool(nn.Module):
    """Mean over positions, in fp32 at least: (B, C, H, W) → (B, C)."""

    def forward(self, maps: Tensor) -> Tensor:
        maps = maps if maps.dtype == torch.float64 else maps.float()
        return maps.mean(dim=(2, 3))


class EmbeddingNeck(nn.Module):
    """BUC's: trained is BN(W x + b), labelled and tested the pooled feature x itself.

    (B, C) → (B, C). W from He et al. (ICCV 2015, fan-out), b from 0, and the batch norm has a bias.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.bn = nn.BatchNorm1d(channels)
        nn.init.kaiming_normal_(self.linear.weight, mode="fan_out")
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.bn(self.linear(features)) if self.training else features


def batch_norm_neck(channels: int) -> nn.Module:
    """Batch norm with its weight learned from 1 and its bias fixed at 0 (Luo et al., BoT, 2019)."""
    neck = nn.BatchNorm1d(channels)  # PyTorch starts it at weight 1, bias 0
    neck.get_parameter("bias").requires_grad_(False)
    return neck


NECKS: dict[str, Callable[[int], nn.Module]] = {"bn": batch_norm_neck, "embedding": EmbeddingNeck}
POOLINGS: dict[str, type[nn.Module]] = {"gem": GeM, "avg": AveragePool}


class ViewHeads(nn.Module):
    """One pooling and one neck per view: (B, C, H, W) → (B, V, C).

    Outputs are not L2-normalised: losses and extraction do that, in one place each.
    """

    def __init__(
        self,
        channels: int,
        views: Sequence[str] = ("global",),
        pooling: str = "gem",
        neck: str = "bn",
    ) -> None:
        super().__init__()
        for view in views:
            if view not in (*VIEWS, *THIRDS):
                raise ConfigError(
                    f"backbone.views has no view '{view}'.", did_you_mean(view, (*VIEWS, *THIRDS))
                )
        if not views or views[0] != "global":
            raise ConfigError(f"backbone.views is {list(views)}.", "The first must be 'global'.")
        if pooling not in POOLINGS:
            raise ConfigError(
                f"backbone.pooling='{pooling}' is unknown.", did_you_mean(pooling, POOLINGS)
            )
        if neck not in NECKS:
            raise ConfigError(f"backbone.neck='{neck}' is unknown.", did_you_mean(neck, NECKS))
        self.views = tuple(views)
        self.pools = nn.ModuleList(POOLINGS[pooling]() for _ in views)
        self.necks = nn.ModuleList(NECKS[neck](channels) for _ in views)

    def pooled(self, maps: Tensor) -> Tensor:
        """Pooled features before the necks, (B, V, C)."""
        height = maps.shape[2]
        half = height // 2
        bands = {"global": maps, "upper": maps[:, :, :half], "lower": maps[:, :, half : 2 * half]}
        for i, third in enumerate(THIRDS):
            bands[third] = maps[:, :, i * height // 3 : -(-(i + 1) * height // 3)]
        pools = zip(self.views, self.pools, strict=True)
        return torch.stack([pool(bands[view]) for view, pool in pools], dim=1)

    def forward(self, maps: Tensor) -> Tensor:
        pooled = self.pooled(maps)
        with torch.autocast(maps.device.type, enabled=False):
            necks = [neck(pooled[:, v]) for v, neck in enumerate(self.necks)]
        return torch.stack(necks, dim=1)
