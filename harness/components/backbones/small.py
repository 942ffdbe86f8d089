"""A small residual network that a CPU trains in minutes, for demonstrations and tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.backbones.pooling import Pooling, ViewNames
from harness.components.backbones.reid_net import ReIDNet
from harness.components.backbones.weights import Weights, load_weights
from harness.core.errors import ConfigError


class _Block(nn.Module):
    """Two 3×3 convolutions with a shortcut (He et al., 2016, fig. 2)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(maps)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(maps))


#: channels of each stage, also of the weights that come with the harness
USUAL_WIDTHS = (16, 32, 64, 128)


def small(
    widths: Annotated[
        Sequence[PositiveInt], Field(min_length=1, description="channels of each stage")
    ] = USUAL_WIDTHS,
    strides: Annotated[
        Sequence[PositiveInt], Field(min_length=1, description="stride of each stage")
    ] = (1, 2, 2, 1),
    weights: Weights = "none",
    pooling: Pooling = "gem",
    views: ViewNames = ("global",),
) -> ReIDNet:
    """One residual block per stage after a stride-2 stem: (B, 3, H, W) → (B, V, widths[-1])."""
    if len(widths) != len(strides):
        raise ConfigError(
            f"backbone.widths={list(widths)} and backbone.strides={list(strides)} do not pair."
        )
    if weights == "imagenet":
        raise ConfigError(
            "There are no ImageNet weights for backbone=small.",
            "Use backbone=resnet50, or backbone.weights=rendered or none.",
        )
    if weights == "rendered" and tuple(widths) != USUAL_WIDTHS:
        raise ConfigError(
            f"backbone.weights=rendered fits backbone.widths={list(USUAL_WIDTHS)}, not "
            f"{list(widths)}.",
            "Start from random weights: backbone.weights=none.",
        )
    stem = nn.Sequential(
        nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
    )
    stages = zip((widths[0], *widths[:-1]), widths, strides, strict=True)
    trunk = nn.Sequential(stem, *(_Block(*stage) for stage in stages))
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    load_weights(trunk, weights)
    return ReIDNet(trunk, widths[-1], views, pooling)
