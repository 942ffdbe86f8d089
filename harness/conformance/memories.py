"""Golden cases of SpCL's, HHCL's and BUC's memories."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor

from harness.components.objectives import ExclusiveMemory, HardHybridMemory, HybridMemory
from harness.conformance.cases import Check, Vectors, case, close

EXACT = 1e-9


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


def _step(
    name: str, step: int, z: Vectors, loss_of: Callable[[Tensor, Tensor], Tensor], of: str
) -> Iterator[Check]:
    """Loss and gradient of one step; the features have one view and are taken as they are."""
    x = _tensor(z[f"inputs{step}"])[:, None].requires_grad_()
    loss = loss_of(x, _tensor(z[f"{of}{step}"]))
    loss.backward()
    yield close(f"{name}loss {step}", loss, z[f"{name}loss{step}"], EXACT)
    grad = cast(Tensor, x.grad)[:, 0]
    yield close(f"{name}gradient {step}", grad, z[f"{name}grad{step}"], EXACT)


@case("spcl_memory")
def hybrid_memory(z: Vectors) -> Iterator[Check]:
    """Loss, gradient and memory over two steps, at two momenta."""
    for name, momentum in (("", float(z["momentum"])), ("m0_", 0.0)):
        objective = HybridMemory(float(z["temp"]), momentum)
        images, dim = z["memory0"].shape
        objective.prepare(1, dim, images)
        objective.memory = _tensor(z["memory0"])[:, None]
        objective.set_labels(_tensor(z["labels"]))
        for step in (1, 2):
            yield from _step(name, step, z, objective.contrast, "indexes")
            objective.update()
            yield close(
                f"{name}memory {step}", objective.memory[:, 0], z[f"{name}memory{step}"], EXACT
            )


@case("hhcl")
def hard_hybrid_memory(z: Vectors) -> Iterator[Check]:
    """Loss, both terms, gradient and both memories over two steps, without and with smoothing."""
    h = float(z["hard_weight"])
    for name, smoothing in (("", 0.0), ("smooth_", float(z["smoothing_epsilon"]))):
        objective = HardHybridMemory(
            float(z["temp"]), float(z["momentum"]), h, h * (1 - h), smoothing
        )
        objective.hard = _tensor(z["centroids"])[None]
        objective.mean = objective.hard.clone()
        for step in (1, 2):
            yield from _step(name, step, z, objective.contrast, "targets")
            terms = z[f"{name}terms_hard_mean{step}"]
            yield close(f"{name}terms {step}", objective.terms[:, 0], terms, EXACT)
            objective.update()
            both = torch.cat([objective.hard[0], objective.mean[0]])
            yield close(f"{name}memory {step}", both, z[f"{name}memory{step}"], EXACT)


@case("buc_loss")
def exclusive_memory(z: Vectors) -> Iterator[Check]:
    """Loss, logits, gradient and memory over two steps, from a filled and from an empty memory."""
    for name in ("", "zero_"):
        clusters, dim = z["memory0"].shape
        objective = ExclusiveMemory(float(z["t"]))
        objective.prepare(1, dim, clusters)
        objective.to(_tensor(z["memory0"]).dtype)
        objective.start_epoch(torch.empty(0), torch.arange(clusters))
        if not name:
            objective.memory.copy_(_tensor(z["memory0"]))
        for step in (1, 2):
            logits = objective.logits(_tensor(z[f"inputs{step}"])[:, None])[0]
            yield close(f"{name}logits {step}", logits, z[f"{name}logits{step}"], EXACT)
            yield from _step(name, step, z, objective.contrast, "targets")
            objective.update()
            memory = z[f"{name}memory{step}"]
            yield close(f"{name}memory {step}", objective.memory[0], memory, EXACT)
