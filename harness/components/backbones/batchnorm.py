"""Batch norm over groups of a set size, whatever the number of GPUs.

The published results come from 4 GPUs with 64 images each, so batch norm sees 64 of the 256 images
at a time. `samples_per_bn=64` does the same on one device: contiguous groups of 64 are normalized
separately, and the running statistics follow the first group (as those of the first GPU).

On several GPUs each group is on one of them. If the group is the whole batch, statistics are taken
over all GPUs.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from harness.core.distributed.collectives import all_gather
from harness.core.distributed.processes import is_distributed
from harness.core.errors import ConfigError


class Grouped(_BatchNorm):
    """Over contiguous groups of `samples` images; a mixin before torch's class."""

    samples: int

    def finish(self, normalized: Tensor) -> Tensor:
        """What the class does after normalizing."""
        return normalized

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or len(input) <= self.samples:
            return super().forward(input)
        first, *others = input.split(self.samples)
        w, b = self.weight, self.bias
        rest = (F.batch_norm(part, None, None, w, b, True, 0.0, self.eps) for part in others)
        return torch.cat([super().forward(first), *map(self.finish, rest)])


class GroupedBatchNorm1d(Grouped, nn.BatchNorm1d):
    """BatchNorm1d over groups of `samples`."""


class GroupedBatchNorm2d(Grouped, nn.BatchNorm2d):
    """BatchNorm2d over groups of `samples`."""


class Synchronized(_BatchNorm):
    """Over equal shares of a batch in all processes; torch's SyncBatchNorm needs GPUs. A mixin."""

    def finish(self, normalized: Tensor) -> Tensor:
        """What the class does after normalizing."""
        return normalized

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not is_distributed():
            return super().forward(input)
        self._check_input_dim(input)
        x = input if input.dtype == torch.float64 else input.float()
        own = torch.var_mean(x, [d for d in range(x.dim()) if d != 1], correction=0)
        every = all_gather(torch.stack(own)[None], sum_gradients=True)  # (processes, 2, C)
        mean = every[:, 1].mean(dim=0)
        variance = (every[:, 0] + (every[:, 1] - mean).square()).mean(dim=0)
        if self.track_running_stats:
            samples = x.numel() // x.shape[1] * len(every)
            self._update(mean.detach(), variance.detach() * samples / (samples - 1))
        scale = (variance + self.eps).rsqrt()
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        channels = (1, -1, *(1 for _ in x.shape[2:]))
        normalized = torch.addcmul(shift.view(channels), x, scale.view(channels))
        return self.finish(normalized.to(input.dtype))

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(variance.to(self.running_var), share)


class SynchronizedBatchNorm1d(Synchronized, nn.BatchNorm1d):
    """BatchNorm1d over the batches of all processes."""


class SynchronizedBatchNorm2d(Synchronized, nn.BatchNorm2d):
    """BatchNorm2d over the batches of all processes."""


class DomainSpecific(_BatchNorm):
    """Statistics and affine terms of a labeled source apart from the target's; a mixin.

    Chang et al., *Domain-Specific Batch Normalization for Unsupervised Domain Adaptation*, CVPR
    2019. The module itself is the target's, so tests and exports need no source.

    source: the norm of the source; it starts as a copy. in_source: whether images are the source's.
    """

    source: _BatchNorm
    in_source: bool

    def forward(self, input: Tensor) -> Tensor:
        return self.source(input) if self.in_source else super().forward(input)


class SourceView(nn.Module):
    """A network that takes its images as the source's; without domain norms, the network itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training
        self.norms = [m for m in network.modules() if isinstance(m, DomainSpecific)]

    def forward(self, images: Tensor) -> Tensor:
        for norm in self.norms:
            norm.in_source = True
        try:
            embeddings: Tensor = self.network(images)
        finally:
            for norm in self.norms:
                norm.in_source = False
        return embeddings


def separate_domains(module: nn.Module) -> None:
    """Give every batch norm in `module` a copy for a labeled source, in place."""
    for norm in [m for m in module.modules() if isinstance(m, _BatchNorm)]:
        copied = copy.deepcopy(norm)
        kind = type(norm)
        # only the class changes, as in `set_samples_per_bn`
        norm.__class__ = type(f"DomainSpecific{kind.__name__}", (DomainSpecific, kind), {})
        assert isinstance(norm, DomainSpecific)
        norm.source, norm.in_source = copied, False


def target_state(module: nn.Module) -> dict[str, Tensor]:
    """A network's state without the norms of the source."""
    prefixes = tuple(
        f"{name}.source." for name, m in module.named_modules() if isinstance(m, DomainSpecific)
    )
    return {
        key: value for key, value in module.state_dict().items() if not key.startswith(prefixes)
    }


#: class of a batch norm → its replacements, over groups and over all processes
_KINDS: dict[type, tuple[type, type]] = {
    nn.BatchNorm1d: (GroupedBatchNorm1d, SynchronizedBatchNorm1d),
    nn.BatchNorm2d: (GroupedBatchNorm2d, SynchronizedBatchNorm2d),
}


def add_kind(kind: type, grouped: type, synchronized: type) -> None:
    """Make `set_samples_per_bn` know another class of batch norms."""
    _KINDS[kind] = grouped, synchronized


def over_whole_batch(samples: int, batch: int) -> bool:
    """Whether a group of `samples` (0: the whole batch) holds a batch of `batch` images."""
    return samples == 0 or samples >= batch


def has_batch_norm(module: nn.Module) -> bool:
    """Whether a network normalizes over batches."""
    return any(isinstance(child, _BatchNorm) for child in module.modules())


def set_samples_per_bn(module: nn.Module, samples: int, batch: int | None = None) -> None:
    """Make every batch norm in `module` normalize over `samples` images at a time, in place.

    0 means the whole batch, of `batch` images over all processes. State dict keys stay as they are.

    Raises:
        ConfigError: the network has a batch norm of an unknown class.
    """
    synchronized = is_distributed() and batch is not None and over_whole_batch(samples, batch)
    if samples == 0 and not synchronized:
        return
    for child in module.modules():
        kinds = _KINDS.get(type(child))
        if kinds is not None:
            # only the class changes: parameters, buffers, device, precision and mode stay
            child.__class__ = kinds[synchronized]
            if not synchronized:
                child.samples = samples  # type: ignore[assignment]
        elif isinstance(child, _BatchNorm) and not isinstance(child, Grouped | Synchronized):
            raise ConfigError(
                f"batch.samples_per_bn={samples}: the backbone has batch norms of the class "
                f"{type(child).__name__}, which this option does not know.",
                "Set batch.samples_per_bn=0 on one device, or choose another backbone.",
            )
