"""Golden case of MMT's losses and of its mean teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.distillers import MutualTeachers
from harness.components.objectives import SoftmaxTriplet
from harness.components.objectives.classification import (
    hard_triplet,
    smoothed_cross_entropy,
    soft_cross_entropy,
    soft_triplet,
)
from harness.conformance.cases import Check, Vectors, case, close, equal
from harness.core.interfaces import Backbone, Batch

EXACT = 1e-9


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


@case("mmt_losses")
def mmt_losses(z: Vectors) -> Iterator[Check]:
    """Each loss with its gradient, then three steps of two students and their mean teachers."""
    labels = _tensor(z["targets"])
    reference, soft_logits = _tensor(z["emb_ref"]), _tensor(z["logits_ref"])
    unit = F.normalize(reference, dim=-1)
    smoothing = float(z["epsilon"])
    losses: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
        "ce_smooth": ("logits", lambda x: smoothed_cross_entropy(x, labels, smoothing)),
        "soft_ce": ("logits", lambda x: soft_cross_entropy(x, soft_logits)),
        "softtriplet_margin0": ("emb", lambda x: soft_triplet(x, labels)),
        "softtriplet_margin05": ("emb", lambda x: soft_triplet(x, labels, margin=0.5)),
        "softtriplet_ref": ("emb", lambda x: soft_triplet(x, labels, reference=reference)),
        "softtriplet_ref_normalised": (
            "emb", lambda x: soft_triplet(F.normalize(x, dim=-1), labels, reference=unit)
        ),
        "triplet_margin03": ("emb", lambda x: hard_triplet(x, labels, margin=0.3)),
        "triplet_margin0": ("emb", lambda x: hard_triplet(x, labels, margin=0.0)),
    }  # fmt: skip
    for name, (key, function) in losses.items():
        x = _tensor(z[key]).requires_grad_()
        loss = function(x)
        loss.backward()
        yield close(f"{name} loss", loss, z[f"{name}_loss"], EXACT)
        yield close(f"{name} gradient", x.grad, z[f"{name}_grad"], EXACT)
    yield from _steps(z)


class _Tables(Backbone):
    """A network whose outputs are its parameters, an embedding and logits for every row.

    Logits come as the global view, of the embedding's size, for a classifier of unit rows;
    embeddings as the view `pooled`. Its images are row numbers.
    """

    def __init__(self, z: Vectors, name: str) -> None:
        super().__init__()
        self.emb = nn.Parameter(_tensor(z[f"step_{name}_emb"]))
        self.logits = nn.Parameter(_tensor(z[f"step_{name}_logits"]))
        self.views, self.dim = ("global", "pooled"), self.emb.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        scores = F.pad(self.logits[images], (0, self.dim - self.logits.shape[1]))
        return torch.stack([scores, self.emb[images]], dim=1)


def _steps(z: Vectors) -> Iterator[Check]:
    """Each student learns from hard labels and from the other's teacher, which then follows."""
    labels, classes = _tensor(z["targets"]), int(z["num_classes"])
    soft_ce, soft_tri = float(z["step_ce_soft_weight"]), float(z["step_tri_soft_weight"])
    first, second = (_Tables(z, f"m{i}") for i in (1, 2))
    objective = SoftmaxTriplet(
        smoothing=float(z["epsilon"]),
        softmax_weight=1 - soft_ce,
        triplet_weight=1 - soft_tri,
        before_neck=True,
    )
    unit = torch.eye(first.dim, dtype=first.emb.dtype)[None]  # the vectors' logits are no products
    objective.classifier = nn.Parameter(unit, requires_grad=False)
    objective.clusters = classes
    distiller = MutualTeachers(
        _Tables(z, "ema1"), [second], soft_ce, soft_tri, alpha=float(z["step_alpha"])
    )
    distiller.prepare(objective)
    second_objective = cast(SoftmaxTriplet, distiller.hard)
    networks = dict(zip(("ema1", "ema2"), distiller.teachers, strict=True))
    networks["ema2"].load_state_dict(_Tables(z, "ema2").state_dict())
    students = {"m1": first, "m2": second}
    optimizer = torch.optim.SGD(
        [p for student in students.values() for p in student.parameters()],
        lr=float(z["step_sgd_lr"]),
    )
    for step in range(len(z["step_epochs"])):
        g = int(z["step_epochs"][step] * z["step_iters_per_epoch"] + z["step_iters"][step])
        yield equal(f"step {step} number", g, z[f"step{step}_global_step"])
        distiller.steps = g  # the vectors leave some steps out
        rows = torch.arange(len(labels)) + int(z[f"step{step}_row_offset"])
        batch = Batch(rows, labels, rows, (rows,))
        x = first(rows)
        loss = objective(x, labels, rows) + distiller(x, batch, objective)
        optimizer.zero_grad()
        loss.backward()
        hard = torch.cat([objective.terms, second_objective.terms], dim=1)
        ours = torch.cat([hard.flatten(), distiller.terms.sum(dim=0)])
        theirs = z[f"step{step}_terms_ce1_ce2_tri1_tri2_cesoft_trisoft"]
        yield close(f"step {step} terms", ours, theirs, EXACT)
        yield close(f"step {step} loss", loss, z[f"step{step}_loss"], EXACT)
        optimizer.step()
        distiller.step(first, objective)
        for i in (1, 2):
            for what in ("emb", "logits"):
                table = getattr(networks[f"ema{i}"], what)
                after = z[f"step{step}_ema{i}_{what}_after"]
                yield close(f"step {step} teacher's {what}", table, after, EXACT)
                grad = getattr(students[f"m{i}"], what).grad
                slope = z[f"step{step}_grad_m{i}_{what}"]
                yield close(f"step {step} gradient of {what}", grad, slope, EXACT)
