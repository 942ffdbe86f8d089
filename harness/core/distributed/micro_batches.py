"""The global batch, computed in pieces: a share for each process, pieces that fit.

While a training step runs, every `Backbone` that is called with the images of a whole batch
(B, 3, H, W) gives the embeddings (B, V, D) of the whole batch, whoever calls it. Behind the call

- each of several processes computes a contiguous share, and all gather the shares in rank order;
- a share that does not fit into memory is computed in smaller pieces, without keeping what their
  gradients need: each piece is computed once more when its gradient is due (Gao et al., *Scaling
  Deep Contrastive Learning Batch Size under Memory Limited Setup*, 2021; here by
  `torch.utils.checkpoint`).

So objectives, memories and teachers see the batch as one process with room for it would: losses
and gradients are the same to rounding. Pieces are whole groups of `samples_per_bn` images. Running
statistics follow the first group of the batch, and follow it once.
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

_active: list[Pieces] = []


def active() -> Pieces | None:
    """How networks are to be called now; None outside of training steps."""
    return _active[-1] if _active else None


class Pieces:
    """How the batches of a stage are cut.

    Attributes:
        size: images a piece; 0: a process's whole share.
        synchronised: whether batch norms take their statistics over all collectives.
        check: told after each network's own work what went wrong ("": nothing); raises if anything
            did, here or in another process. None: memory is not watched.
    """

    def __init__(self, size: int = 0, synchronised: bool = False) -> None:
        self.size = size
        self.synchronised = synchronised
        self.check: Callable[[str], None] | None = None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Let networks be called so."""
        _active.append(self)
        try:
            yield
        finally:
            _active.remove(self)

    def embeddings(
        self, network: nn.Module, call: Callable[[Tensor], Tensor], images: Tensor
    ) -> Tensor:
        """Of the whole batch: images (B, 3, H, W) → (B, V, D).

        Args:
            call: the network itself.
        """
        with _nothing_active():
            own = images[collectives.local_share(len(images))]
            if self.check is None:
                result = self._own(network, call, own)
            else:
                result = self._checked(network, call, own)
            if not is_distributed():
                return result
            if network.training and not self.synchronised:
                floating = [b for b in network.buffers() if b.is_floating_point()]
                collectives.broadcast_tensors(floating)
            return collectives.all_gather(result)

    def _checked(self, network: nn.Module, call: Callable[[Tensor], Tensor], own: Tensor) -> Tensor:
        assert self.check is not None
        problem = ""
        try:
            result = self._own(network, call, own)
        except torch.OutOfMemoryError as error:
            problem = str(error) or "out of memory"
        self.check(problem)
        return result

    def _own(self, network: nn.Module, call: Callable[[Tensor], Tensor], own: Tensor) -> Tensor:
        """Of this process's share, piece by piece."""
        pieces = own.split(self.size or len(own))
        again = len(pieces) > 1 and torch.is_grad_enabled() and _learns(network)
        results = []
        for number, piece in enumerate(pieces):
            follows = self.synchronised or (number == 0 and rank() == 0)
            first: AbstractContextManager[None] = nullcontext()
            if network.training and not follows:
                first = _statistics_kept(network)
            if not again:
                with first:
                    results.append(call(piece))
                continue
            contexts = partial(_both, first, network, follows)
            results.append(checkpoint(call, piece, use_reentrant=False, context_fn=contexts))
        return results[0] if len(results) == 1 else torch.cat(results)


def _both(
    first: AbstractContextManager[None], network: nn.Module, follows: bool
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """In what a piece is computed, and in what again."""
    return first, _statistics_borrowed(network) if follows else _statistics_kept(network)


@contextlib.contextmanager
def _nothing_active() -> Iterator[None]:
    """Networks inside of networks are called as they are."""
    before = _active[:]
    _active.clear()
    try:
        yield
    finally:
        _active[:] = before


def _learns(network: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in network.parameters())


def _norms(network: nn.Module) -> list[_BatchNorm]:
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


@contextlib.contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    """Batch norms in training leave their running statistics as they are."""
    norms = _norms(network) if network.training else []
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextlib.contextmanager
def _statistics_borrowed(network: nn.Module) -> Iterator[None]:
    """Batch norms follow statistics that are thrown away: autograd has to find as many tensors the
    second time as the first.
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
