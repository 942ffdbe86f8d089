"""Golden case of NCPLR: labels, neighbors and steps with one view and with parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.components.objectives import NeighbourConsistency
from harness.components.objectives.memory import centroids
from harness.components.objectives.neighbour_consistency import Near
from harness.components.objectives.views import weigh_views
from harness.conformance.cases import DISTANCE, Check, Vectors, case, close, gradient
from harness.conformance.labels import graph_of, jaccard_dbscan


@case("ncplr")
def neighbour_consistency(z: Vectors) -> Iterator[Check]:
    """Labels and memories, neighbors by either distance, and two steps of six runs."""
    yield from jaccard_dbscan(z, part_weight=z.number("lambda1"))
    features, labels = z.tensor("features").transpose(0, 1), z.tensor("labels")
    yield from z.close("*0", memory=centroids(features, labels))
    kept = (labels >= 0).nonzero()[:, 0]
    for name in ("mixed", "own"):
        yield from _neighbours(z, name, features, kept)
    runs = ("single_uniform", "single_distance", "single_top")
    for run in (*runs, "parts_mixed", "parts_own", "parts_top"):
        yield from _steps(z, run)


def _objective(z: Vectors, **options: Any) -> NeighbourConsistency:
    """With the settings that all runs share."""
    return NeighbourConsistency(
        z.number("temp"), z.number("momentum"), z.number("lambda2"),
        soft_weight=z.number("refine_weight"), label_weight=z.number("alpha"),
        part_label_weight=z.number("cmalpha"), radius=z.number("eps_neighbor"),
        part_radius=z.number("eps_partneighbor"), agreement_temperature=z.number("temp_kl"),
        max_clusters=int(z["num_columns"]), **options,
    )  # fmt: skip


def _neighbours(z: Vectors, name: str, features: Tensor, kept: Tensor) -> Iterator[Check]:
    """The neighbors and their distances that an epoch finds, among the clustered images `kept`."""
    objective = _objective(
        z, fused=name == "mixed", distance_weight=z.number("lambda1"), k1=int(z["k1"]),
        k2=int(z["k2"]),
    )  # fmt: skip
    found = [near.among(kept) for near in objective.neighbours(features)]
    near, distances = (torch.stack(view) for view in zip(*found, strict=True))
    theirs = torch.where(z.tensor(f"{name}_neighbors") > 0, z.tensor(f"{name}_dist"), torch.nan)
    yield from z.equal(f"{name}_*", neighbors=near)
    yield close(f"{name}_dist", distances.masked_fill(~near, torch.nan), theirs, DISTANCE)


def _steps(z: Vectors, run: str) -> Iterator[Check]:
    single, own = run.startswith("single"), run == "parts_own"
    objective = _objective(
        z, by_distance=bool(z[f"{run}_option"]), topk=int(z[f"{run}_topk"]), fused=not own,
        distance_temperature=z.number(f"{run}_neighbor_temp"),
        cut_parts=bool(z[f"{run}_topk_part"]),
    )  # fmt: skip
    views = slice(1 if single else 3)
    objective.memory = z.tensor("memory0")[views]
    objective.clusters = objective.memory.shape[1]
    radii = [z.number("eps_neighbor")] + [z.number("eps_partneighbor")] * 2
    # the vectors' weights were computed in float64, from these distances
    dense = z["own_dist" if own else "mixed_dist"].astype(np.float64)
    objective.near = [Near.of(graph_of(d, r)) for d, r in zip(dense, radii, strict=False)]
    for step in (1, 2):
        x = z.tensor(f"inputs{step}")[views].transpose(0, 1).requires_grad_()
        targets, indices = z.tensors(f"targets{step}", f"indexes{step}")
        columns = z.tensor(f"logits{step}")[views].requires_grad_()
        logits = columns[..., : objective.clusters]
        loss = objective.loss(x, logits, targets, indices)
        terms = torch.stack([objective.terms, objective.soft_terms])
        contrast, refine = weigh_views(terms, objective.part_weight)
        keys = f"{run}_*{step}"
        yield from z.close(keys, loss=loss, contrast=contrast, refine=refine)
        yield from z.close(keys, grad_inputs=gradient(loss, x).transpose(0, 1))
        yield from z.close(keys, grad_logits=gradient(loss, columns))
        if single:
            yield from z.close(keys, soft=objective.soft_targets(logits, targets, indices)[0])
        objective.update()
        yield from z.close(keys, memory=objective.memory)
