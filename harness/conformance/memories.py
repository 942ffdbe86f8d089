"""Golden cases of the memories of SpCL, HHCL and BUC."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from harness.components.objectives import ExclusiveMemory, HardHybridMemory, HybridMemory
from harness.conformance.cases import Check, Vectors, case, gradient

Loss = Callable[[Tensor, Tensor], Tensor]


def _step(z: Vectors, keys: str, loss_of: Loss, inputs: str, targets: str) -> Iterator[Check]:
    """Loss and gradient of one step, on features of one view as they are."""
    x = z.tensor(inputs)[:, None].requires_grad_()
    loss = loss_of(x, z.tensor(targets))
    yield from z.close(keys, loss=loss, grad=gradient(loss, x)[:, 0])


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
            keys = f"{name}*{step}"
            yield from _step(z, keys, objective.contrast, f"inputs{step}", f"indexes{step}")
            objective.update()
            yield from z.close(keys, memory=objective.memory[:, 0])


@case("hhcl")
def hard_hybrid_memory(z: Vectors) -> Iterator[Check]:
    """Loss, both terms, gradient and both memories over two steps, without and with smoothing."""
    h, temperature, momentum = z.number("hard_weight"), z.number("temp"), z.number("momentum")
    for name, smoothing in (("", 0.0), ("smooth_", z.number("smoothing_epsilon"))):
        objective = HardHybridMemory(temperature, momentum, h, h * (1 - h), smoothing)
        objective.hard = z.tensor("centroids")[None]
        objective.mean = objective.hard.clone()
        for step in (1, 2):
            keys = f"{name}*{step}"
            yield from _step(z, keys, objective.contrast, f"inputs{step}", f"targets{step}")
            yield from z.close(keys, terms_hard_mean=objective.terms[:, 0])
            objective.update()
            yield from z.close(keys, memory=torch.cat([objective.hard[0], objective.mean[0]]))


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
            keys = f"{name}*{step}"
            logits = objective.logits(z.tensor(f"inputs{step}")[:, None])[0]
            yield from z.close(keys, logits=logits)
            yield from _step(z, keys, objective.contrast, f"inputs{step}", f"targets{step}")
            objective.update()
            yield from z.close(keys, memory=objective.memory[0])
