"""Pooling and necks: a feature map to one embedding per view.

Views are horizontal bands of the map. As in MSKD (arXiv 2204.09931) `global` has all rows, `upper`
the first ⌊H/2⌋ and `lower` the next ⌊H/2⌋ (only the global view has an odd last row). As in PPLR
(CVPR 2022) `top`, `middle` and `bottom` are thirds: rows ⌊iH/3⌋ to ⌈(i+1)H/3⌉, which overlap where
3 does not divide H (adaptive pooling). `pooled` is the global view before its neck, which MMT uses
for triplets (ICLR 2020).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from harness.core.errors import ConfigError
from harness.core.views import POOLED

ViewNames = Annotated[
    Sequence[Literal["global", "upper", "lower", "top", "middle", "bottom", "pooled"]],
    Field(min_length=1, description="global, then any halves or thirds, and pooled as the last"),
]
Pooling = Annotated[
    Literal["gem", "avg"], Field(description="generalized mean (GeM) or average, for each view")
]
TokenPooling = Annotated[
    Literal["gem", "avg", "class_token"],
    Field(description="of each view: GeM or mean of positions or patch tokens; class_token: of the "
          "global view the class token, of part views the mean"),
]  # fmt: skip
Neck = Annotated[
    Literal["bn", "embedding"], Field(description="batch norm, or BUC's linear layer with one")
]

VIEWS = ("global", "upper", "lower")
THIRDS = ("top", "middle", "bottom")


def _generalized_mean(maps: Tensor, p: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The pooled g (B, C), the powers max(x, eps)^p (B, C, H, W) and their mean (B, C)."""
    powers = _at_least_fp32(maps).clamp(min=eps).pow(p)
    mean = powers.mean(dim=(2, 3))
    return mean.pow(1.0 / p), powers, mean


def _at_least_fp32(maps: Tensor) -> Tensor:
    return maps if maps.dtype == torch.float64 else maps.float()


class _GeneralizedMean(torch.autograd.Function):
    """The generalized mean, whose gradient reuses the powers.

    With x̂ = max(x, eps), m = mean(x̂^p) and g = m^(1/p):

    - ∂g/∂x = g / m · x̂^p / x̂ / (H W), and 0 where x ≤ eps;
    - ∂g/∂p = g / m · (mean(x̂^p ln x̂) / p − m ln m / p²).

    Autograd's own formulas compute x̂^(p − 1) as another power and select among special cases.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, p: Tensor, eps: float) -> Tensor:
        pooled, powers, mean = _generalized_mean(maps, p, eps)
        ctx.save_for_backward(maps, p, pooled, powers, mean)
        ctx.eps = eps
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        maps, p, pooled, powers, mean = ctx.saved_tensors
        upstream = gradients[0] * pooled / mean
        base = _at_least_fp32(maps).clamp(min=ctx.eps)
        of_maps = of_p = None
        if ctx.needs_input_grad[0]:
            positions = maps.shape[2] * maps.shape[3]
            of_maps = (powers / base).mul_((upstream / positions)[:, :, None, None])
            of_maps = torch.ops.aten.threshold_backward(of_maps, base, ctx.eps).to(maps.dtype)
        if ctx.needs_input_grad[1]:
            logarithms = base.log_().mul_(powers).mean(dim=(2, 3))
            of_p = (upstream * (logarithms / p - mean * mean.log() / p**2)).sum().to(p.dtype)
        return of_maps, of_p, None


class GeM(nn.Module):
    """Generalized-mean pooling, g = (mean over positions of max(x, eps)^p)^(1/p).

    (B, C, H, W) → (B, C). Radenović et al., TPAMI 2019, eq. 3; p is a learned scalar that starts at
    3. Powers are computed in fp32, or fp64 for maps in fp64.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor(float(p)))
        self.eps = eps

    def forward(self, maps: Tensor) -> Tensor:
        with torch.autocast(maps.device.type, enabled=False):
            if torch.is_grad_enabled():
                return _GeneralizedMean.apply(maps, self.p, self.eps)
            return _generalized_mean(maps, self.p, self.eps)[0]


class AveragePool(nn.Module):
    """Mean over positions, in fp32 at least: (B, C, H, W) → (B, C)."""

    def forward(self, maps: Tensor) -> Tensor:
        return _at_least_fp32(maps).mean(dim=(2, 3))


class EmbeddingNeck(nn.Module):
    """BUC's neck, (B, C) → (B, C): BN(W x + b) in training, the pooled feature x in evaluation.

    W starts as in He et al. (ICCV 2015, fan-out), b at 0, and the batch norm has a bias.
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
    """Batch norm with a learned weight and its bias fixed at 0 (Luo et al., BoT, 2019)."""
    neck = nn.BatchNorm1d(channels)  # PyTorch starts it at weight 1, bias 0
    neck.get_parameter("bias").requires_grad_(False)
    return neck


NECKS: dict[str, Callable[[int], nn.Module]] = {"bn": batch_norm_neck, "embedding": EmbeddingNeck}
POOLINGS: dict[str, type[nn.Module]] = {
    "gem": GeM, "avg": AveragePool, "class_token": AveragePool,
}  # fmt: skip


def band(view: str, height: int) -> slice:
    """The rows of a view in a feature map of `height` rows."""
    if view == "global":
        return slice(0, height)
    half = height // 2
    if view in VIEWS:
        return slice(0, half) if view == "upper" else slice(half, 2 * half)
    third = THIRDS.index(view)
    return slice(third * height // 3, -(-(third + 1) * height // 3))


class ViewHeads(nn.Module):
    """One pooling and one neck per view: (B, C, H, W) → (B, V, C), not L2-normalized.

    The view `pooled` is the output of the global view's pooling, without a neck. With the pooling
    `class_token`, the global view is a transformer's class token (B, C), not a mean of the map.
    """

    def __init__(
        self, channels: int, views: Sequence[str] = ("global",), pooling: str = "gem",
        neck: str = "bn",
    ) -> None:  # fmt: skip
        super().__init__()
        if not views or views[0] != "global":
            raise ConfigError(f"backbone.views={list(views)}: the first must be 'global'.")
        if POOLED in views[:-1]:
            raise ConfigError(f"backbone.views={list(views)}: '{POOLED}' must be the last.")
        self.views = tuple(views)
        self.class_token = pooling == "class_token"
        self.bands = tuple(view for view in views if view != POOLED)
        self.pools = nn.ModuleList(POOLINGS[pooling]() for _ in self.bands)
        self.necks = nn.ModuleList(NECKS[neck](channels) for _ in self.bands)

    def pooled(self, maps: Tensor, token: Tensor | None = None) -> Tensor:
        """Pooled features of all bands before the necks, (B, V, C)."""
        first = token if self.class_token else None
        bands = [maps[:, :, band(view, maps.shape[2])] for view in self.bands]
        pools = zip(self.pools, bands, strict=True)
        found = [] if first is None else [first if first.dtype == torch.float64 else first.float()]
        found += [pool(rows) for pool, rows in list(pools)[len(found) :]]
        return torch.stack(found, dim=1)

    def forward(self, maps: Tensor, token: Tensor | None = None) -> Tensor:
        """Maps, and a class token (B, C) if the pooling needs one."""
        return self.necked(self.pooled(maps, token))

    def necked(self, pooled: Tensor) -> Tensor:
        """Views (B, V, C) of the pooled features of all bands."""
        with torch.autocast(pooled.device.type, enabled=False):
            views = [neck(pooled[:, v]) for v, neck in enumerate(self.necks)]
        if self.views[-1] == POOLED:
            views.append(pooled[:, 0])
        return torch.stack(views, dim=1)
