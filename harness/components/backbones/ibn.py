"""IBN-a: instance and batch norm side by side (Pan et al., *Two at Once*, ECCV 2018)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class InstanceBatchNorm(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the others: (B, C, H, W).

    The names of its parts are those of the authors' weights.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.split = channels // 2, channels - channels // 2
        self.IN = nn.InstanceNorm2d(self.split[0], affine=True)
        self.BN = nn.BatchNorm2d(self.split[1])

    def forward(self, maps: Tensor) -> Tensor:
        first, rest = maps.split(self.split, dim=1)
        return torch.cat([self.IN(first.contiguous()), self.BN(rest.contiguous())], dim=1)


def use_ibn(layers: Iterable[nn.Module]) -> None:
    """Replace the first norm of each bottleneck in torchvision's layers 1–3, in place."""
    for layer in layers:
        for block in layer.children():
            block.bn1 = InstanceBatchNorm(block.get_submodule("bn1").num_features)  # type: ignore[arg-type]
