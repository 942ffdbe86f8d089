"""One training step over the global batch, on one process or several, whole or in micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from harness.components.backbones.batchnorm import over_whole_batch
from harness.core.distributed import collectives as sharing
from harness.core.distributed.processes import count, is_distributed
from harness.core.errors import TrainingError
from harness.core.interfaces import Backbone, Batch, Distiller, Objective
from harness.core.notices import say_once
from harness.core.precision import arithmetic
from harness.training.micro_batches import MicroBatches

OUT_OF_MEMORY = "out of memory"


class _DoesNotFit(Exception):
    """Some process ran out of memory, maybe another one."""


@dataclass
class Step:
    """Forward, backward, update.

    Attributes:
        backbone, objective, distiller: the stage's. trained: all of them, for their state.
        batch: B. samples_per_bn: images of a batch-norm group, 0 for B.
        micro_batch: images a piece as the user wants it, or 0: as many as fit.
        micro_batches: how batches are split; smaller whenever the GPU's memory turned out too small.
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
    micro_batches: MicroBatches = field(init=False)

    def __post_init__(self) -> None:
        whole = over_whole_batch(self.samples_per_bn, self.batch)
        self.micro_batches = MicroBatches(
            0 if self.micro_batch >= self.share else self.micro_batch,
            synchronized=whole and is_distributed(),
        )
        self.group = self.share if whole else self.samples_per_bn
        self.networks = [m for m in self.trained.modules() if isinstance(m, Backbone)]
        #: parameters of which each process has its share of the gradient
        self.shared_out = {id(p) for network in self.networks for p in network.parameters()}
        self.start_epoch()

    @property
    def share(self) -> int:
        """Images of a batch that this process computes."""
        return self.batch // count()

    def start_epoch(self) -> None:
        """Tie the processes together, so that rounding on unlike GPUs does not add up."""
        state = [*self.trained.parameters(), *self.trained.buffers()]
        sharing.same_as_first([t.data for t in state])
        self._tried = False
        self.buffers = [b for network in self.networks for b in network.buffers()]

    def __call__(self, batch: Batch, optimizer: torch.optim.Optimizer, frozen: bool) -> Tensor:
        """One optimiser step; returns the loss, detached.

        Raises:
            TrainingError: not even the smallest piece fits into memory.
        """
        # Several processes have to agree at every try, and do in an epoch's first step alone; never
        # where they wait for each other inside of the network, which cannot be cut anyway.
        alone = not is_distributed()
        tries = self.micro_batch == 0 and (
            alone or not (self._tried or self.micro_batches.synchronized)
        )
        while True:
            try:
                loss = self._gradients(batch, optimizer, tries)
                break
            except (torch.OutOfMemoryError, _DoesNotFit) as error:
                problem = str(error)
            self._split(problem, tries)  # not in `except`, whose traceback holds on to tensors
        self._tried = True
        self.scaler.step(optimizer)
        self.scaler.update()
        self.objective.update(frozen)
        if self.distiller is not None:
            self.distiller.step(self.backbone, self.objective)
        return loss

    def _gradients(self, batch: Batch, optimizer: torch.optim.Optimizer, tries: bool) -> Tensor:
        """Set the gradients of a batch; or, where memory does not do, leave networks as they were.

        Raises:
            torch.OutOfMemoryError, _DoesNotFit: it does not, here or elsewhere.
        """
        optimizer.zero_grad(set_to_none=True)
        if not tries:
            loss = self._backward(self._loss(batch))
        else:
            before, problem = _State(self.buffers, self.device), ""
            self.micro_batches.check = self._agree
            try:
                try:
                    loss = self._backward(self._loss(batch))
                except torch.OutOfMemoryError as error:
                    problem = str(error) or OUT_OF_MEMORY
                self._agree(problem)
            except _DoesNotFit:
                before.restore()
                raise
            finally:
                self.micro_batches.check = None
        sharing.sum_gradients(self.trained, self.shared_out)
        return loss

    def _loss(self, batch: Batch) -> Tensor:
        batch = replace(batch, embed=self.micro_batches.embed)
        with arithmetic(self.precision, self.device):
            embeddings = batch.embed(self.backbone, batch.images)
            distilled = None
            if self.distiller is not None:
                distilled = self.distiller(embeddings.float(), batch, self.objective)
        loss = self.objective(embeddings.float(), batch.labels, batch.indices)
        return loss if distilled is None else loss + distilled

    def _backward(self, loss: Tensor) -> Tensor:
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _agree(self, problem: str) -> None:
        """All processes go on together (nobody has a problem), or try again together.

        Raises:
            _DoesNotFit: one of them has.
        """
        if not sharing.all_can(not problem, self.device):
            raise _DoesNotFit(problem or "another process ran out of memory")

    def _split(self, problem: str, tries: bool) -> None:
        """Halve the pieces, in whole batch-norm groups."""
        size = self.micro_batches.size or self.share
        if not tries or size <= self.group:
            raise self._too_small(size, problem)
        groups = -(-size // self.group)
        self.micro_batches.size = -(-groups // 2) * self.group
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        whose = f"its {self.share} of {self.batch} images" if is_distributed() else (
            f"batches of {self.batch} images"
        )  # fmt: skip
        say_once(
            f"the GPU is short of memory: a step computes {whose} in pieces of "
            f"{self.micro_batches.size}, with equal results (train.micro_batch={self.micro_batches.size} spares "
            "the trying)"
        )

    def _too_small(self, size: int, problem: str) -> TrainingError:
        cures = []
        if size > self.group:
            cures.append(f"Set train.micro_batch={-(-size // self.group // 2) * self.group}")
        elif over_whole_batch(self.samples_per_bn, self.batch):
            cures.append("Set batch.samples_per_bn (0 needs the whole batch at once)")
        cures += ["use more GPUs (torchrun)", "train.precision=bf16"]
        text = ", ".join(cures)
        return TrainingError(
            f"The GPU's memory does not hold a piece of {size} images: "
            f"{(problem or OUT_OF_MEMORY).splitlines()[0]}",
            f"{text[0].upper()}{text[1:]} or smaller images. The last checkpoint, if there is one, "
            "is kept.",
        )


class _State:
    """What a forward pass changes: running statistics, and the position of random numbers."""

    def __init__(self, buffers: Sequence[Tensor], device: torch.device) -> None:
        self.buffers = buffers
        self.kept = [
            (kind, torch.cat([b.reshape(-1) for b in self.buffers if b.dtype == kind]))
            for kind in sorted({b.dtype for b in self.buffers}, key=str)
        ]
        self.random = torch.get_rng_state()
        self.device = device
        if device.type == "cuda":
            self.random_there = torch.cuda.get_rng_state(device)

    @torch.no_grad()
    def restore(self) -> None:
        """Set it back."""
        for kind, flat in self.kept:
            alike = [b for b in self.buffers if b.dtype == kind]
            parts = flat.split([b.numel() for b in alike])
            for buffer, part in zip(alike, parts, strict=True):
                buffer.copy_(part.view(buffer.shape))
        torch.set_rng_state(self.random)
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.random_there, self.device)
