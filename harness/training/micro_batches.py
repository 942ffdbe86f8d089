"""The embeddings of a global batch, computed by several processes and in micro-batches.

`MicroBatches.embed(network, images)` gives the embeddings (B, V, D) of the whole batch in every
process. Behind the call

- each of several processes computes a contiguous share, and all gather the shares in rank order;
- a share that does not fit into memory is split into micro-batches, which do not keep what their
  gradients need: each is computed again when its gradient is due (Gao et al., *Scaling Deep
  Contrastive Learning Batch Size under Memory Limited Setup*, 2021; here by
  `torch.utils.checkpoint`).

Objectives, memories and teachers therefore see the batch that one process with enough memory would
see: losses and gradients are equal up to rounding, except that stochastic depth
(`backbone.drop_path`) draws its masks for each micro-batch separately. Micro-batches are whole
groups of `samples_per_bn` images. Running statistics follow the first group of the batch, once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from harness.core.distributed import collectives
from harness.core.distributed.processes import is_distributed, rank
from harness.core.interfaces import Backbone


class MicroBatches:
    """How a stage splits its batches.

    size: images per micro-batch; 0: a process's whole share.
    synchronized: whether batch norms take their statistics over all processes.
    check: called after each network's local work with the error message ("" without an error);
        raises if this or another process failed. None: memory is not watched.
    """

    def __init__(self, size: int = 0, synchronized: bool = False) -> None:
        self.size = size
        self.synchronized = synchronized
        self.check: Callable[[str], None] | None = None

    def embed(self, network: Backbone, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) of the whole batch → its embeddings (B, V, D)."""
        share = images[collectives.local_share(len(images))]
        compute = self._share if self.check is None else self._checked
        result = compute(network, share)
        if not is_distributed():
            return result
        if network.training and not self.synchronized:
            floating = [b for b in network.buffers() if b.is_floating_point()]
            collectives.broadcast_tensors(floating)
        return collectives.all_gather(result)

    def _checked(self, network: Backbone, share: Tensor) -> Tensor:
        assert self.check is not None
        problem = ""
        try:
            result = self._share(network, share)
        except torch.OutOfMemoryError as error:
            problem = str(error) or "out of memory"
        self.check(problem)
        return result

    def _share(self, network: Backbone, share: Tensor) -> Tensor:
        """The embeddings of this process's share, one micro-batch after the other."""
        parts = share.split(self.size or len(share))
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in network.parameters())
        results = []
        for number, part in enumerate(parts):
            updates = self.synchronized or (number == 0 and rank() == 0)
            forward: AbstractContextManager[None] = nullcontext()
            if network.training and not updates:
                forward = _statistics_frozen(network)
            if len(parts) > 1 and learns:
                contexts = partial(_contexts, forward, network, updates)
                results.append(checkpoint(network, part, use_reentrant=False, context_fn=contexts))
            else:
                with forward:
                    results.append(network(part))
        return results[0] if len(results) == 1 else torch.cat(results)


def _contexts(
    forward: AbstractContextManager[None], network: nn.Module, updates: bool
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts for the forward pass and its recomputation."""
    return forward, _statistics_discarded(network) if updates else _statistics_frozen(network)


def _norms(network: nn.Module) -> list[_BatchNorm]:
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@contextlib.contextmanager
def _statistics_frozen(network: nn.Module) -> Iterator[None]:
    """Batch norms in training mode leave their running statistics unchanged."""
    norms = _norms(network) if network.training else []
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextlib.contextmanager
def _statistics_discarded(network: nn.Module) -> Iterator[None]:
    """Batch norms update copies of their statistics, which are then discarded: autograd has to
    find as many tensors in the recomputation as in the forward pass.
    """
    kept = [(norm, dict(norm._buffers)) for norm in _norms(network)]
    for norm, buffers in kept:
        for name, buffer in buffers.items():
            norm._buffers[name] = None if buffer is None else buffer.clone()
    try:
        yield
    finally:
        for norm, buffers in kept:
            norm._buffers.update(buffers)
