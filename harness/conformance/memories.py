"""Golden cases of the memories of SpCL, HHCL, BUC and RTMem."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import (
    ExclusiveMemory,
    HardHybridMemory,
    HybridMemory,
    RealTimeMemory,
)
from harness.conformance.cases import Check, Vectors, case, close, gradient
from harness.conformance.labels import jaccard_dbscan

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


@case("rtmem")
def real_time_memory(z: Vectors) -> Iterator[Check]:
    """Labels, rows, and two steps as shipped and with both terms."""
    yield from jaccard_dbscan(z)
    features, labels, chosen = z.tensors("features", "labels", "chosen")
    yield close("labels of the drawn members", labels[chosen], torch.arange(len(chosen)))
    yield from z.close("*0", memory=F.normalize(features[chosen], dim=-1))
    for shipped in (True, False):
        objective = RealTimeMemory(
            z.number("temp"), instance_weight=z.number("instance_weight"), as_shipped=shipped
        )
        both = RealTimeMemory(z.number("temp")) if shipped else objective
        both.prepare(1, features.shape[1], len(features))
        instances = both.to(features.dtype).by_instance
        assert instances is not None, "it has both terms"
        instances.memory.copy_(z.tensor("instances0")[:, None])
        instances.set_labels(labels)
        yield from z.equal("*", instance_labels=instances.labels)
        clusters = objective.by_cluster
        clusters.memory = z.tensor("memory0")[None]
        for step in (1, 2):
            x = z.tensor(f"inputs{step}")[:, None].requires_grad_()
            targets = z.tensor(f"targets{step}")
            # the shipped code hands over numbers within the clustered images
            indices = z.tensor(f"indexes{step}" if shipped else f"images{step}")
            loss = objective(x, targets, indices)
            grad = gradient(loss, x)[:, 0]
            instance = instances(x, targets, indices)
            objective.update()
            keys = f"{'shipped' if shipped else 'both'}_*{step}"
            yield from z.close(keys, loss=loss, grad=grad, instance=instance)
            yield from z.close(keys, memory=clusters.memory[0], **{"class": clusters.terms[0]})
            if not shipped:
                yield from z.close(keys, instances=instances.memory[:, 0])
