"""Batch statistics over groups of a set size, whatever the number of GPUs.

The published results come from 4 GPUs with 64 images each: every GPU normalises over its own 64 of
the 256. `samples_per_bn=64` does the same on one device: contiguous groups of 64 are normalised
each by itself, and the running statistics follow the first group (as those of the first GPU).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class _Grouped(_BatchNorm):
    samples: int

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or len(input) <= self.samples:
            return super().forward(input)
        first, *others = input.split(self.samples)
        w, b = self.weight, self.bias
        rest = (F.batch_norm(part, None, None, w, b, True, 0.0, self.eps) for part in others)
        return torch.cat([super().forward(first), *rest])


class GroupedBatchNorm1d(_Grouped, nn.BatchNorm1d):
    """BatchNorm1d over groups of `samples`."""


class GroupedBatchNorm2d(_Grouped, nn.BatchNorm2d):
    """BatchNorm2d over groups of `samples`."""


def set_samples_per_bn(module: nn.Module, samples: int) -> None:
    """Let every batch norm in `module` normalise over `samples` images at a time, in place.

    Keys of the state dict stay as they are. 0 leaves the batch whole.
    """
    if samples == 0:
        return
    kinds = {nn.BatchNorm1d: GroupedBatchNorm1d, nn.BatchNorm2d: GroupedBatchNorm2d}
    for child in module.modules():
        kind = kinds.get(type(child))  # type: ignore[arg-type]
        if kind is not None:
            # the class alone changes: parameters, buffers, device, precision and mode stay
            child.__class__ = kind
            child.samples = samples  # type: ignore[assignment]
