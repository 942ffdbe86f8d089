"""timm's batch norm with an activation, over groups of a set size and over several processes."""

from __future__ import annotations

from timm.layers import BatchNormAct2d
from torch import Tensor

from harness.components.backbones.batchnorm import Grouped, Synchronized, add_kind


class GroupedBatchNormAct2d(Grouped, BatchNormAct2d):
    """BatchNormAct2d over groups of `samples`."""

    def finish(self, normalized: Tensor) -> Tensor:
        return self.act(self.drop(normalized))


class SynchronizedBatchNormAct2d(Synchronized, BatchNormAct2d):
    """BatchNormAct2d over the batches of all processes."""

    def finish(self, normalized: Tensor) -> Tensor:
        return self.act(self.drop(normalized))


def register() -> None:
    """Make `set_samples_per_bn` know these classes."""
    add_kind(BatchNormAct2d, GroupedBatchNormAct2d, SynchronizedBatchNormAct2d)
