"""Golden cases of the cluster memories of 3C and ISE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import torch

from harness.components.objectives import CameraClusterMemory
from harness.components.objectives.camera_cluster_memory import (
    Rule,
    camera_entropies,
    camera_groups,
    entropy_weights,
)
from harness.components.objectives.memory import centroids
from harness.conformance.cases import Check, Vectors, case, gradient
from harness.conformance.labels import jaccard_dbscan

#: measured with the vectors of 2022 to 2024
TOLERANCE = 1e-8


@case("threec")
def camera_cluster_memory(z: Vectors) -> Iterator[Check]:
    """Labels, entropies, weights; loss, gradient and memory over two steps, by all six rules."""
    yield from jaccard_dbscan(z, classical_lists=True)
    features, labels, memory = z.tensors("features", "labels", "memory0")
    yield from z.close("*", TOLERANCE, memory0=centroids(features[:, None], labels)[0])
    for step in (1, 2):
        targets, cameras = z.tensors(f"targets{step}", f"cams{step}")
        groups = camera_groups(targets, cameras)
        entropy = torch.zeros(len(memory), dtype=torch.float64)
        entropy[targets] = camera_entropies(targets, groups)
        weight = entropy_weights(targets, groups)
        yield from z.close(f"*{step}", TOLERANCE, entropy=entropy, weight=weight)
    rules: tuple[Rule, ...] = get_args(Rule)
    for rule, weighted in [*((rule, True) for rule in rules), ("hd_camera", False)]:
        options = z.number("temp"), z.number("momentum")
        objective = CameraClusterMemory(*options, rule=rule, weighted=weighted)
        objective.memory = memory.clone()[None]
        for step in (1, 2):
            x = z.tensor(f"inputs{step}")[:, None].requires_grad_()
            objective.cameras = z.tensor(f"cams{step}")
            loss = objective(x, z.tensor(f"targets{step}"), torch.arange(len(x)))
            grad = gradient(loss, x)[:, 0]
            objective.update()
            name = f"{rule}_{'weighted' if weighted else 'plain'}_*{step}"
            ours = {"loss": loss, "grad": grad, "memory": objective.memory[0]}
            yield from z.close(name, TOLERANCE, **ours)
