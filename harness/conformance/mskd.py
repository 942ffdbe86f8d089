"""Golden cases of the networks, losses and memories of Cluster Contrast and MSKD."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.backbones.pooling import VIEWS, ViewHeads
from harness.components.distillers import OfflineTeacher
from harness.components.distillers.feature_distance import FeatureDistance
from harness.components.objectives import ClusterMemory
from harness.conformance.cases import THROUGH_NORM, Check, Vectors, case, gradient
from harness.core.interfaces import Backbone, Batch


class _Heads(Backbone):
    """Heads without a trunk, in float64: feature maps (B, C, H, W) are its images."""

    def __init__(self, p: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.views, self.dim = VIEWS, weight.shape[1]
        self.heads = ViewHeads(self.dim, VIEWS).double()
        self.pools, self.necks = self.heads.pools, self.heads.necks
        with torch.no_grad():
            for v, (pool, neck) in enumerate(zip(self.pools, self.necks, strict=True)):
                pool.get_parameter("p").fill_(float(p[v]))
                neck.get_parameter("weight").copy_(weight[v])

    def forward(self, images: Tensor) -> Tensor:
        return self.heads(images)

    def gradients(self) -> list[np.ndarray]:
        """Of GeM's p and of the necks' weights, after a backward pass."""
        p = [pool.get_parameter("p") for pool in self.pools]
        weight = [neck.get_parameter("weight") for neck in self.necks]
        return [np.stack([np.asarray(x.grad) for x in each]) for each in (p, weight)]

    def running(self) -> list[Tensor]:
        """Means and variances of the necks."""
        names = ("running_mean", "running_var")
        return [torch.stack([neck.get_buffer(name) for neck in self.necks]) for name in names]


def _memory(z: Vectors) -> ClusterMemory:
    temperature, momentum = z.number("temp"), z.number("momentum")
    objective = ClusterMemory(temperature, momentum, part_weight=z.number("lambda2"))
    objective.memory = z.tensor("memory0")
    return objective


@case("cluster_contrast")
def cluster_contrast(z: Vectors) -> Iterator[Check]:
    """Loss, gradient and memory over two steps, both updates, two momenta."""
    for update in ("cm", "cmhard"):
        for tenths in ("10", "20"):
            name = f"{update}_m{tenths}"
            objective = ClusterMemory(z.number("temp"), int(tenths) / 100, hard=update == "cmhard")
            objective.memory = z.tensor("memory0")[None]
            for step in (1, 2):
                x = z.tensor(f"inputs{step}")[:, None].requires_grad_()
                loss = objective(x, z.tensor(f"targets{step}"), torch.empty(0))
                grad = gradient(loss, x)[:, 0]
                objective.update()
                memory = objective.memory[0]
                yield from z.close(f"{name}_*{step}", loss=loss, grad=grad, memory=memory)


@case("mskd_heads")
def heads(z: Vectors) -> Iterator[Check]:
    """Pooling, necks, gradients and running statistics on an even and an odd feature map."""
    for parity in ("even", "odd"):
        network = _Heads(z.tensor("gem_p"), z.tensor("bn_weight"))
        for v, neck in enumerate(network.necks):
            for name in ("running_mean", "running_var"):
                neck.get_buffer(name).copy_(z.tensor(f"{name}_before")[v])
        maps = z.tensor(f"{parity}_feature_map").requires_grad_()
        pooled = network.heads.pooled(maps).transpose(0, 1)
        network.eval()
        out = F.normalize(network(maps), dim=-1).transpose(0, 1)
        network.train()
        raw = network(maps).transpose(0, 1)
        normal = F.normalize(raw, dim=-1)
        (normal * z.tensor(f"{parity}_cotangent")).sum().backward()
        close = partial(z.close, f"{parity}_*", THROUGH_NORM)
        yield from close(pooled=pooled, eval_out=out, train_raw_out=raw, train_norm_out=normal)
        p, weight = network.gradients()
        grads = partial(z.close, f"{parity}_train_norm_grad_*", THROUGH_NORM)
        yield from grads(map=maps.grad, p=p, bn_weight=weight)
        mean, var = network.running()
        yield from z.close(f"{parity}_running_*_after", mean=mean, var=var)


@case("mskd_loss")
def losses(z: Vectors) -> Iterator[Check]:
    """Both stages' losses in ordinary and warm-up epochs."""
    modes = {"normal": (False, False), "warm": (True, True), "warm_then_normal": (True, False)}
    for stage, mode in itertools.product(("teacher", "student"), modes):
        name = f"{stage}_{mode}"
        objective = _memory(z)
        distance = FeatureDistance(z.number("mu"), z.number("lambda2"))
        for step, frozen in enumerate(modes[mode], start=1):
            x = z.tensor(f"inputs{step}").transpose(0, 1).contiguous().requires_grad_()
            loss = objective(x, z.tensor(f"targets{step}"), torch.empty(0))
            keys = f"{name}_*{step}"
            yield from z.close(keys, ce=objective.terms)
            if stage == "student":
                loss = loss + distance(x, z.tensor(f"teacher{step}").transpose(0, 1))
                yield from z.close(keys, mse=distance.terms)
            grad = gradient(loss, x).transpose(0, 1)
            objective.update(frozen=frozen)
            yield from z.close(keys, loss=loss, memory=objective.memory)
            if f"{name}_grad{step}" in z:
                yield from z.close(keys, grad=grad)


@case("mskd_step")
def steps(z: Vectors) -> Iterator[Check]:
    """Two whole iterations of each stage, from feature map to gradient."""
    for stage in ("student", "teacher"):
        network = _Heads(z.tensor("gem_p")[0], z.tensor("bn_weight")[0]).train()
        teacher = _Heads(z.tensor("gem_p")[1], z.tensor("bn_weight")[1])
        objective = _memory(z)
        distiller = OfflineTeacher(teacher, z.number("mu"), z.number("lambda2"), "train")
        for step in (1, 2):
            name = f"{stage}_step{step}"
            epoch = int(z[f"{name}_epoch"])
            distiller.start_epoch(epoch)
            maps = z.tensor("student_maps")[step - 1].requires_grad_()
            network.zero_grad()
            embeddings = network(maps)
            labels = z.tensor("targets")[step - 1]
            loss = objective(embeddings, labels, torch.empty(0))
            if stage == "student":
                batch = Batch(z.tensor("teacher_maps")[step - 1], labels, torch.empty(0))
                loss = loss + distiller(embeddings, batch, objective)
            loss.backward()
            objective.update(frozen=epoch < 0)
            close = partial(z.close, f"{name}_*", THROUGH_NORM)
            yield from close(loss=loss, memory=objective.memory)
            p, weight = network.gradients()
            yield from close(grad_maps=maps.grad, grad_gem_p=p, grad_bn_weight=weight)
            mean, var = network.running()
            yield from close(running_mean=mean, running_var=var)
            if stage == "student":
                mean, var = teacher.running()
                yield from close(teacher_running_mean=mean, teacher_running_var=var)
