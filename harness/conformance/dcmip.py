"""Golden case of DCMIP: cluster proxies alone, then with instance proxies."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.backbones import small
from harness.components.distillers import InstanceProxies
from harness.components.objectives import HardHybridMemory
from harness.components.objectives.memory import centroids
from harness.conformance.cases import Check, Vectors, case, gradient
from harness.conformance.labels import jaccard_dbscan


@case("dcmip")
def dcmip(z: Vectors) -> Iterator[Check]:
    """Labels and proxies from features, then two steps of each stage with the file's draws."""
    yield from jaccard_dbscan(z)
    features, teacher, labels = z.tensors("features", "features_ema", "labels")
    means = centroids(features[:, None], labels)[0]
    yield from z.close("*", proxies0=torch.cat([means, means]))
    clusters, count = len(means), int(z["num_instances"])
    chosen = z.tensor("chosen").view(count, clusters)
    for stage in ("stage1", "stage2"):
        objective = HardHybridMemory(
            z.number("temp"), z.number("momentum"), hard_weight=0.5, mean_weight=0.5,
            hard_margin=z.number("margin"), hard_update="every",
        )  # fmt: skip
        objective.start_epoch(features[:, None], labels)
        distiller = InstanceProxies(small(widths=[4], strides=[1]), count, z.number("temp"))
        distiller.start_from(teacher[:, None], chosen)
        yield from z.close("*", instances0=distiller.proxies[0].flatten(0, 1))
        for step in (1, 2):
            x = z.tensor(f"inputs{step}")[:, None].requires_grad_()
            targets = z.tensor(f"targets{step}")
            loss = objective(x, targets, torch.arange(len(x)))
            yield from z.close(f"{stage}_*{step}", cluster=loss)
            if stage == "stage2":
                unit = F.normalize(x, dim=-1)
                instance = distiller.contrast(unit, targets)
                yield from z.close(f"{stage}_*{step}", instance=instance)
                loss = loss + instance
            yield from z.close(f"{stage}_*{step}", loss=loss, grad=gradient(loss, x)[:, 0])
            objective.update()
            proxies = torch.cat([objective.hard[0], objective.mean[0]])
            yield from z.close(f"{stage}_*{step}", proxies=proxies)
            if stage == "stage2":
                drawn = _in_batch(targets, z.tensor(f"{stage}_drawn{step}"))
                distiller.replace(unit.detach(), targets, drawn)
                instances = distiller.proxies[0].flatten(0, 1)
                yield from z.close(f"{stage}_*{step}", instances=instances)


def _in_batch(labels: Tensor, drawn: Tensor) -> Tensor:
    """Positions within each label's samples, labels in order of first appearance: (k, m), as
    positions in the batch for each sample (m, B).
    """
    order = list(dict.fromkeys(labels.tolist()))
    samples = [torch.nonzero(labels == label)[:, 0] for label in order]
    chosen = torch.stack([own[row] for own, row in zip(samples, drawn, strict=True)])
    return chosen[[order.index(label) for label in labels.tolist()]].T
