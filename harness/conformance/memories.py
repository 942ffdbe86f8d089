"""Golden cases of the memories of SpCL, HHCL and BUC."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from harness.components.objectives import ExclusiveMemory, HardHybridMemory, HybridMemory
from harness.conformance.cases import Check, Vectors, case, gradient


def _step(
    z: Vectors, name: str, step: int, loss_of: Callable[[Tensor, Tensor], Tensor], targets: str
) -> Iterator[Check]:
    """Loss and gradient of one step, on features of one view as they are."""
    x = z.tensor(f"inputs{step}")[:, None].requires_grad_()
    loss = loss_of(x, z.tensor(f"{targets}{step}"))
    yield z.close(f"{name}loss {step}", loss, f"{name}loss{step}")
    yield z.close(f"{name}gradient {step}", gradient(loss, x)[:, 0], f"{name}grad{step}")


@case("spcl_memory")
def hybrid_memory(z: Vectors) -> Iterator[Check]:
    """Loss, gradient and memory over two steps, at two momenta."""
    for name, momentum in (("", z.number("momentum")), ("m0_", 0.0)):
        objective = HybridMemory(z.number("temp"), momentum)
        images, dim = z["memory0"].shape
        objective.prepare(1, dim, images)
        objective.memory = z.tensor("memory0")[:, None]
        objective.set_labels(z.tensor("labels"))
        for step in (1, 2):
            yield from _step(z, name, step, objective.contrast, "indexes")
            objective.update()
            memory = objective.memory[:, 0]
            yield z.close(f"{name}memory {step}", memory, f"{name}memory{step}")


@case("hhcl")
def hard_hybrid_memory(z: Vectors) -> Iterator[Check]:
    """Loss, both terms, gradient and both memories over two steps, without and with smoothing."""
    h = z.number("hard_weight")
    for name, smoothing in (("", 0.0), ("smooth_", z.number("smoothing_epsilon"))):
        objective = HardHybridMemory(
            z.number("temp"), z.number("momentum"), h, h * (1 - h), smoothing
        )
        objective.hard = z.tensor("centroids")[None]
        objective.mean = objective.hard.clone()
        for step in (1, 2):
            yield from _step(z, name, step, objective.contrast, "targets")
            terms = objective.terms[:, 0]
            yield z.close(f"{name}terms {step}", terms, f"{name}terms_hard_mean{step}")
            objective.update()
            both = torch.cat([objective.hard[0], objective.mean[0]])
            yield z.close(f"{name}memory {step}", both, f"{name}memory{step}")


@case("buc_loss")
def exclusive_memory(z: Vectors) -> Iterator[Check]:
    """Loss, logits, gradient and memory over two steps, from a filled and from an empty memory."""
    for name in ("", "zero_"):
        clusters, dim = z["memory0"].shape
        objective = ExclusiveMemory(z.number("t"))
        objective.prepare(1, dim, clusters)
        objective.to(z.tensor("memory0").dtype)
        objective.start_epoch(torch.empty(0), torch.arange(clusters))
        if not name:
            objective.memory.copy_(z.tensor("memory0"))
        for step in (1, 2):
            logits = objective.logits(z.tensor(f"inputs{step}")[:, None])[0]
            yield z.close(f"{name}logits {step}", logits, f"{name}logits{step}")
            yield from _step(z, name, step, objective.contrast, "targets")
            objective.update()
            yield z.close(f"{name}memory {step}", objective.memory[0], f"{name}memory{step}")
