"""Golden case of MMT's losses and mean teachers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

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
from harness.conformance.cases import Check, Vectors, case, gradient
from harness.core.interfaces import Backbone, Batch


@case("mmt_losses")
def mmt_losses(z: Vectors) -> Iterator[Check]:
    """Each loss with its gradient, then three steps of two students and their mean teachers."""
    labels, reference, soft_logits = z.tensors("targets", "emb_ref", "logits_ref")
    unit = F.normalize(reference, dim=-1)
    smoothing = z.number("epsilon")
    logits, emb = z.tensor("logits").requires_grad_(), z.tensor("emb").requires_grad_()
    losses = {
        "ce_smooth": (logits, smoothed_cross_entropy(logits, labels, smoothing)),
        "soft_ce": (logits, soft_cross_entropy(logits, soft_logits)),
        "softtriplet_margin0": (emb, soft_triplet(emb, labels)),
        "softtriplet_margin05": (emb, soft_triplet(emb, labels, margin=0.5)),
        "softtriplet_ref": (emb, soft_triplet(emb, labels, reference=reference)),
        "softtriplet_ref_normalised": (
            emb, soft_triplet(F.normalize(emb, dim=-1), labels, reference=unit)
        ),
        "triplet_margin03": (emb, hard_triplet(emb, labels, margin=0.3)),
        "triplet_margin0": (emb, hard_triplet(emb, labels, margin=0.0)),
    }  # fmt: skip
    for name, (x, loss) in losses.items():
        yield from z.close(f"{name}_*", loss=loss, grad=gradient(loss, x))
    yield from _steps(z)


class _Tables(Backbone):
    """A network whose outputs are its parameters: an embedding and logits for every row.

    Logits are the global view, padded to the embedding's size for a classifier of unit rows;
    embeddings are the view `pooled`. Its images are row numbers.
    """

    def __init__(self, z: Vectors, name: str) -> None:
        super().__init__()
        self.emb = nn.Parameter(z.tensor(f"step_{name}_emb"))
        self.logits = nn.Parameter(z.tensor(f"step_{name}_logits"))
        self.views, self.dim = ("global", "pooled"), self.emb.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        scores = F.pad(self.logits[images], (0, self.dim - self.logits.shape[1]))
        return torch.stack([scores, self.emb[images]], dim=1)


def _steps(z: Vectors) -> Iterator[Check]:
    """Each student learns from hard labels and from the other's teacher, which is then updated."""
    labels, classes = z.tensor("targets"), int(z["num_classes"])
    soft_ce, soft_tri = z.number("step_ce_soft_weight"), z.number("step_tri_soft_weight")
    students = [_Tables(z, "m1"), _Tables(z, "m2")]
    first, second = students
    objective = SoftmaxTriplet(
        smoothing=z.number("epsilon"), softmax_weight=1 - soft_ce, triplet_weight=1 - soft_tri,
        before_neck=True,
    )  # fmt: skip
    unit = torch.eye(first.dim, dtype=first.emb.dtype)[None]  # the file has logits, not products
    objective.classifier = nn.Parameter(unit, requires_grad=False)
    objective.clusters = classes
    distiller = MutualTeachers(
        _Tables(z, "ema1"), [second], soft_ce, soft_tri, alpha=z.number("step_alpha")
    )
    distiller.prepare(objective)
    second_objective = cast(SoftmaxTriplet, distiller.hard)
    distiller.teachers[1].load_state_dict(_Tables(z, "ema2").state_dict())
    optimizer = torch.optim.SGD(
        [*first.parameters(), *second.parameters()], z.number("step_sgd_lr")
    )
    for step in range(len(z["step_epochs"])):
        number = int(z["step_epochs"][step] * z["step_iters_per_epoch"] + z["step_iters"][step])
        yield from z.equal(f"step{step}_*", global_step=number)
        distiller.steps = number  # the file leaves some steps out
        rows = torch.arange(len(labels)) + int(z[f"step{step}_row_offset"])
        batch = Batch(rows, labels, rows, (rows,))
        x = first(rows)
        loss = objective(x, labels, rows) + distiller(x, batch, objective)
        optimizer.zero_grad()
        loss.backward()
        hard = torch.cat([objective.terms, second_objective.terms], dim=1)
        terms = torch.cat([hard.flatten(), distiller.terms.sum(dim=0)])
        yield from z.close(f"step{step}_*", terms_ce1_ce2_tri1_tri2_cesoft_trisoft=terms, loss=loss)
        optimizer.step()
        distiller.step(first, objective)
        for i, (student, teacher) in enumerate(zip(students, distiller.teachers, strict=True), 1):
            grads = {"emb": student.emb.grad, "logits": student.logits.grad}
            yield from z.close(f"step{step}_grad_m{i}_*", **grads)
            average = {"emb": teacher.emb, "logits": teacher.logits}
            yield from z.close(f"step{step}_ema{i}_*_after", **average)
