"""Golden cases of the cluster memories of 3C and ISE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import torch
from torch.nn import functional as F

from harness.components.objectives import CameraClusterMemory, ImplicitExtension
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


@case("ise")
def implicit_extension(z: Vectors) -> Iterator[Check]:
    """Labels; supports, terms, loss, gradient and memory over two steps of six runs."""
    yield from jaccard_dbscan(z)
    features, labels, memory = z.tensors("features", "labels", "memory0")
    yield from z.close("*", TOLERANCE, memory0=centroids(features[:, None], labels)[0])
    runs = (key.removesuffix("_layout") for key in z if key.endswith("_layout"))
    for run in runs:
        hard, supports = bool(z[f"{run}_hard"]), bool(z[f"{run}_use_support"])
        objective = ImplicitExtension(
            z.number("temp"), z.number("momentum"), hard=hard, contrast_supports=supports,
            neighbours=int(z[f"{run}_topk"]), step=z.number("base_lambda"),
            contrast_weight=z.number("loss_weight"), preserving_weight=z.number("lp_weight"),
            preserving_temperature=z.number("temp_lp"), images=int(z["num_instances"]),
        )  # fmt: skip
        objective.memory = memory.clone()[None]
        batch = ("aligned", "ragged", "shifted")[int(z[f"{run}_layout"])]
        for step in (1, 2):
            epoch, iterations = int(z[f"{run}_epoch"]), int(z["iters"])
            done = epoch * iterations + step - 1
            objective.progress = done / (iterations * int(z["epochs"]))
            x = z.tensor(f"{batch}_inputs{step}")[:, None].requires_grad_()
            targets = z.tensor(f"{batch}_targets{step}")
            support = objective.extend(F.normalize(x, dim=-1), targets)[:, 0]
            loss = objective(x, targets, torch.empty(0))
            grad = gradient(loss, x)[:, 0]
            objective.update()
            ours = {
                "support": support, "cc": objective.terms[0], "lp": objective.preserving[0],
                "loss": loss, "grad": grad, "memory": objective.memory[0],
            }  # fmt: skip
            yield from z.close(f"{run}_*{step}", TOLERANCE, **ours)
