"""Golden cases of Cluster Contrast's and MSKD's networks, losses and memories."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.backbones.pooling import VIEWS, GeM, ViewHeads
from harness.components.distillers import OfflineTeacher
from harness.components.distillers.feature_distance import FeatureDistance
from harness.components.objectives import ClusterMemory
from harness.conformance.cases import Check, Vectors, case, close
from harness.core.interfaces import Backbone, Batch

EXACT, THROUGH_NORM = 1e-9, 1e-8


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


class _Heads(Backbone):
    """Heads without a trunk, in float64: feature maps (B, C, H, W) are its images."""

    def __init__(self, p: np.ndarray, weight: np.ndarray) -> None:
        super().__init__()
        self.views, self.dim = VIEWS, weight.shape[1]
        self.heads = ViewHeads(self.dim, VIEWS).double()
        with torch.no_grad():
            for v, (pool, neck) in enumerate(zip(self.pools, self.necks, strict=True)):
                pool.p.fill_(float(p[v]))
                neck.weight.copy_(_tensor(weight[v]))

    @property
    def pools(self) -> list[GeM]:
        return [cast(GeM, pool) for pool in self.heads.pools]

    @property
    def necks(self) -> list[nn.BatchNorm1d]:
        return [cast(nn.BatchNorm1d, neck) for neck in self.heads.necks]

    def forward(self, images: Tensor) -> Tensor:
        return self.heads(images)

    def grad_p(self) -> Tensor:
        return torch.stack([cast(Tensor, pool.p.grad) for pool in self.pools])

    def grad_weight(self) -> Tensor:
        return torch.stack([cast(Tensor, neck.weight.grad) for neck in self.necks])

    def running(self) -> tuple[Tensor, Tensor]:
        means = torch.stack([cast(Tensor, neck.running_mean) for neck in self.necks])
        return means, torch.stack([cast(Tensor, neck.running_var) for neck in self.necks])

    def set_running(self, mean: np.ndarray, var: np.ndarray) -> None:
        for v, neck in enumerate(self.necks):
            cast(Tensor, neck.running_mean).copy_(_tensor(mean[v]))
            cast(Tensor, neck.running_var).copy_(_tensor(var[v]))


@case("cluster_contrast")
def cluster_contrast(z: Vectors) -> Iterator[Check]:
    """Loss, gradient and memory over two steps, both updates, two momenta."""
    for update in ("cm", "cmhard"):
        for tenths in ("10", "20"):
            name = f"{update}_m{tenths}"
            objective = ClusterMemory(float(z["temp"]), int(tenths) / 100, hard=update == "cmhard")
            objective.memory = _tensor(z["memory0"])[None]
            for step in (1, 2):
                x = _tensor(z[f"inputs{step}"])[:, None].requires_grad_()
                loss = objective(x, _tensor(z[f"targets{step}"]), torch.empty(0))
                loss.backward()
                objective.update()
                grad = cast(Tensor, x.grad)[:, 0]
                yield close(f"{name} loss {step}", loss, z[f"{name}_loss{step}"], EXACT)
                yield close(f"{name} gradient {step}", grad, z[f"{name}_grad{step}"], EXACT)
                yield close(
                    f"{name} memory {step}", objective.memory[0], z[f"{name}_memory{step}"], EXACT
                )


@case("mskd_heads")
def heads(z: Vectors) -> Iterator[Check]:
    """Pooling, necks, gradients and running statistics on an even and an odd feature map."""
    for parity in ("even", "odd"):
        network = _Heads(z["gem_p"], z["bn_weight"])
        network.set_running(z["running_mean_before"], z["running_var_before"])
        maps = _tensor(z[f"{parity}_feature_map"]).requires_grad_()
        pooled = network.heads.pooled(maps).transpose(0, 1)
        yield close(f"{parity} pooled", pooled, z[f"{parity}_pooled"], THROUGH_NORM)
        network.eval()
        out = F.normalize(network(maps), dim=-1).transpose(0, 1)
        yield close(f"{parity} evaluation", out, z[f"{parity}_eval_out"], THROUGH_NORM)
        network.train()
        raw = network(maps).transpose(0, 1)
        yield close(f"{parity} training, raw", raw, z[f"{parity}_train_raw_out"], THROUGH_NORM)
        normal = F.normalize(raw, dim=-1)
        yield close(
            f"{parity} training, normalised", normal, z[f"{parity}_train_norm_out"], THROUGH_NORM
        )
        (normal * _tensor(z[f"{parity}_cotangent"])).sum().backward()
        for what, ours in (
            ("map", maps.grad),
            ("p", network.grad_p()),
            ("bn_weight", network.grad_weight()),
        ):
            theirs = z[f"{parity}_train_norm_grad_{what}"]
            yield close(f"{parity} gradient of {what}", ours, theirs, THROUGH_NORM)
        for what, value in zip(("mean", "var"), network.running(), strict=True):
            theirs = z[f"{parity}_running_{what}_after"]
            yield close(f"{parity} running {what}", value, theirs, EXACT)


@case("mskd_loss")
def losses(z: Vectors) -> Iterator[Check]:
    """Both stages' losses in ordinary and warm-up epochs."""
    for stage in ("teacher", "student"):
        for mode, frozen in (
            ("normal", (False, False)),
            ("warm", (True, True)),
            ("warm_then_normal", (True, False)),
        ):
            name = f"{stage}_{mode}"
            objective = _memory(z)
            distance = FeatureDistance(float(z["mu"]), float(z["lambda2"]))
            for step in (1, 2):
                x = _tensor(z[f"inputs{step}"]).transpose(0, 1).contiguous().requires_grad_()
                loss = objective(x, _tensor(z[f"targets{step}"]), torch.empty(0))
                yield close(f"{name} CE {step}", objective.terms, z[f"{name}_ce{step}"], EXACT)
                if stage == "student":
                    target = _tensor(z[f"teacher{step}"]).transpose(0, 1)
                    loss = loss + distance(x, target)
                    mse = z[f"{name}_mse{step}"]
                    yield close(f"{name} MSE {step}", distance.terms, mse, EXACT)
                loss.backward()
                objective.update(frozen=frozen[step - 1])
                yield close(f"{name} loss {step}", loss, z[f"{name}_loss{step}"], EXACT)
                if f"{name}_grad{step}" in z:
                    grad = cast(Tensor, x.grad).transpose(0, 1)
                    yield close(f"{name} gradient {step}", grad, z[f"{name}_grad{step}"], EXACT)
                memory = z[f"{name}_memory{step}"]
                yield close(f"{name} memory {step}", objective.memory, memory, EXACT)


def _memory(z: Vectors) -> ClusterMemory:
    objective = ClusterMemory(
        float(z["temp"]), float(z["momentum"]), part_weight=float(z["lambda2"])
    )
    objective.memory = _tensor(z["memory0"])
    return objective


@case("mskd_step")
def steps(z: Vectors) -> Iterator[Check]:
    """Two whole iterations of each stage, from feature map to gradient."""
    for stage in ("student", "teacher"):
        network = _Heads(z["gem_p"][0], z["bn_weight"][0]).train()
        teacher = _Heads(z["gem_p"][1], z["bn_weight"][1])
        objective = _memory(z)
        distiller = OfflineTeacher(teacher, float(z["mu"]), float(z["lambda2"]), "train")
        for step in (1, 2):
            name = f"{stage}_step{step}"
            epoch = int(z[f"{name}_epoch"])
            distiller.start_epoch(epoch)
            maps = _tensor(z["student_maps"][step - 1]).requires_grad_()
            network.zero_grad()
            embeddings = network(maps)
            labels = _tensor(z["targets"][step - 1])
            loss = objective(embeddings, labels, torch.empty(0))
            if stage == "student":
                batch = Batch(_tensor(z["teacher_maps"][step - 1]), labels, torch.empty(0))
                loss = loss + distiller(embeddings, batch, objective)
            loss.backward()
            objective.update(frozen=epoch < 0)
            yield close(f"{name} loss", loss, z[f"{name}_loss"], THROUGH_NORM)
            for what, ours in (
                ("maps", maps.grad),
                ("gem_p", network.grad_p()),
                ("bn_weight", network.grad_weight()),
            ):
                theirs = z[f"{name}_grad_{what}"]
                yield close(f"{name} gradient of {what}", ours, theirs, THROUGH_NORM)
            yield close(f"{name} memory", objective.memory, z[f"{name}_memory"], THROUGH_NORM)
            for what, value in zip(("mean", "var"), network.running(), strict=True):
                theirs = z[f"{name}_running_{what}"]
                yield close(f"{name} running {what}", value, theirs, THROUGH_NORM)
            if stage == "student":
                for what, value in zip(("mean", "var"), teacher.running(), strict=True):
                    theirs = z[f"{name}_teacher_running_{what}"]
                    yield close(f"{name} teacher's running {what}", value, theirs, THROUGH_NORM)
