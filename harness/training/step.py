"""One training step over the global batch, on one process or several, whole or in micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.components.backbones.batchnorm import SourceView, over_whole_batch
from harness.core.distributed import collectives
from harness.core.distributed.processes import is_distributed, world_size
from harness.core.errors import TrainingError, say_once
from harness.core.interfaces import Backbone, Batch, Distiller, Objective
from harness.core.precision import arithmetic
from harness.training.micro_batches import MicroBatches

OUT_OF_MEMORY = "out of memory"


class _OutOfMemory(Exception):
    """This process or another one ran out of GPU memory."""


@dataclass
class Step:
    """Forward pass, backward pass and optimizer update.

    trained: backbone, objective and distiller as one module, for their state.
    batch: B, images of the global batch. samples_per_bn: images per batch-norm group, 0 for B.
    micro_batch: images per micro-batch if the user sets it, or 0: as many as fit.
    clip: largest norm of the gradients, or None.
    micro_batches: how batches are split; they get smaller when GPU memory is too small.
    """

    backbone: Backbone
    objective: Objective
    distiller: Distiller | None
    trained: nn.Module
    device: torch.device
    precision: str
    scaler: torch.amp.GradScaler
    batch: int
    samples_per_bn: int
    micro_batch: int = 0
    clip: float | None = None
    micro_batches: MicroBatches = field(init=False)

    def __post_init__(self) -> None:
        whole = over_whole_batch(self.samples_per_bn, self.batch)
        size = 0 if self.micro_batch >= self.share else self.micro_batch
        self.micro_batches = MicroBatches(size, synchronized=whole and is_distributed())
        self.group = self.share if whole else self.samples_per_bn
        self.networks = [m for m in self.trained.modules() if isinstance(m, Backbone)]
        #: parameters whose gradients are sums over processes
        self.shared_out = {id(p) for network in self.networks for p in network.parameters()}
        self.start_epoch()

    @property
    def share(self) -> int:
        """Number of images of a batch that this process computes."""
        return self.batch // world_size()

    def start_epoch(self) -> None:
        """Copy the first process's state, so that rounding differences do not accumulate."""
        state = [*self.trained.parameters(), *self.trained.buffers()]
        collectives.broadcast_tensors([t.data for t in state])
        self._tried = False
        self.buffers = [b for network in self.networks for b in network.buffers()]

    def __call__(self, batch: Batch, optimizer: torch.optim.Optimizer, frozen: bool) -> Tensor:
        """One optimizer step; returns the loss, detached.

        Raises TrainingError: not even the smallest micro-batch fits into memory.
        """
        # Each try needs agreement between processes, so they only try in an epoch's first step, and
        # never if batch norms synchronize inside the network: such batches cannot be split anyway.
        done = is_distributed() and (self._tried or self.micro_batches.synchronized)
        tries = self.micro_batch == 0 and not done
        while True:
            try:
                loss = self._gradients(batch, optimizer, tries)
                break
            except (torch.OutOfMemoryError, _OutOfMemory) as error:
                problem = str(error)
            self._split(problem, tries)  # outside `except`, whose traceback keeps tensors alive
        self._tried = True
        if self.clip is not None:
            self.scaler.unscale_(optimizer)
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.clip)
        self.scaler.step(optimizer)
        self.scaler.update()
        self.objective.update(frozen)
        if self.distiller is not None:
            self.distiller.step(self.backbone, self.objective)
        return loss

    def _gradients(self, batch: Batch, optimizer: torch.optim.Optimizer, tries: bool) -> Tensor:
        """Set the gradients of a batch; without enough memory, leave networks unchanged."""
        optimizer.zero_grad(set_to_none=True)
        if not tries:
            loss = self._backward(batch)
        else:
            before, problem = _State(self.buffers, self.device), ""
            self.micro_batches.check = self._agree
            try:
                try:
                    loss = self._backward(batch)
                except torch.OutOfMemoryError as error:
                    problem = str(error) or OUT_OF_MEMORY
                self._agree(problem)
            except _OutOfMemory:
                before.restore()
                raise
            finally:
                self.micro_batches.check = None
        collectives.all_reduce_gradients(self.trained, self.shared_out)
        return loss

    def _backward(self, batch: Batch) -> Tensor:
        """Compute the gradients of a batch's loss; returns the loss, detached."""
        batch = replace(batch, embed=self.micro_batches.embed)
        with arithmetic(self.precision, self.device):
            embeddings = batch.embed(self.backbone, batch.images)
            source = None
            if batch.source is not None:
                view: Any = SourceView(self.backbone)
                source = batch.embed(view, batch.source.images)
            distilled = None
            if self.distiller is not None:
                distilled = self.distiller(embeddings.float(), batch, self.objective)
        embeddings, labels, indices = embeddings.float(), batch.labels, batch.indices
        if source is not None and batch.source is not None:
            embeddings, labels, indices = with_source(
                source.float(), batch.source.labels, embeddings, labels, indices,
                self.objective.source_classes,
            )  # fmt: skip
        loss = self.objective(embeddings, labels, indices)
        loss = loss if distilled is None else loss + distilled
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _agree(self, problem: str) -> None:
        """Raise unless no process has a `problem` (""), so that all continue or try again."""
        if not collectives.all_agree(not problem, self.device):
            raise _OutOfMemory(problem or "another process ran out of memory")

    def _split(self, problem: str, tries: bool) -> None:
        """Halve the micro-batches, in whole batch-norm groups."""
        size = self.micro_batches.size or self.share
        if not tries or size <= self.group:
            raise self._too_small(size, problem)
        groups = -(-size // self.group)
        self.micro_batches.size = -(-groups // 2) * self.group
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        share = f"{self.share} of " if is_distributed() else ""
        say_once(
            f"the GPU is short of memory: steps split {share}{self.batch} images into "
            f"micro-batches of {self.micro_batches.size}, with equal results up to rounding "
            f"(train.micro_batch={self.micro_batches.size} skips the search)"
        )

    def _too_small(self, size: int, problem: str) -> TrainingError:
        more = "use more GPUs (torchrun), train.precision=bf16 or smaller images"
        hint = f"U{more[1:]}"
        if size > self.group:
            hint = f"Set train.micro_batch={-(-size // self.group // 2) * self.group}, {more}"
        elif over_whole_batch(self.samples_per_bn, self.batch):
            hint = f"Set batch.samples_per_bn (0 needs the whole batch at once), {more}"
        reason = (problem or OUT_OF_MEMORY).splitlines()[0]
        return TrainingError(
            f"The GPU's memory does not hold a micro-batch of {size} images: {reason}",
            f"{hint}. The last checkpoint, if there is one, is kept.",
        )


class _State:
    """State that a forward pass changes: running statistics and random number generators."""

    def __init__(self, buffers: Sequence[Tensor], device: torch.device) -> None:
        self.buffers = buffers
        self.kept = [
            (kind, torch.cat([b.reshape(-1) for b in self.buffers if b.dtype == kind]))
            for kind in sorted({b.dtype for b in self.buffers}, key=str)
        ]
        self.random = torch.get_rng_state()
        self.device = device
        if device.type == "cuda":
            self.device_random = torch.cuda.get_rng_state(device)

    @torch.no_grad()
    def restore(self) -> None:
        """Set the state back."""
        for kind, flat in self.kept:
            alike = [b for b in self.buffers if b.dtype == kind]
            parts = flat.split([b.numel() for b in alike])
            for buffer, part in zip(alike, parts, strict=True):
                buffer.copy_(part.view(buffer.shape))
        torch.set_rng_state(self.random)
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.device_random, self.device)


def with_source(
    source: Tensor, own: Tensor, embeddings: Tensor, labels: Tensor, indices: Tensor, classes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings, labels and indices of a joint batch, as `Objective.forward` takes them.

    Args:
        source, own: embeddings (B, V, D) and identities (B,) of the labeled source.
        classes: of the source. The target's labels follow them.
    """
    return (
        torch.cat([source, embeddings]),
        torch.cat([own, labels + classes]),
        torch.cat([torch.full_like(own, -1), indices]),
    )
