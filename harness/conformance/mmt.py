"""Golden case of MMT's losses and mean teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
from harness.conformance.cases import Check, Vectors, case, equal, gradient
from harness.core.interfaces import Backbone, Batch


@case("mmt_losses")
def mmt_losses(z: Vectors) -> Iterator[Check]:
    """Each loss with its gradient, then three steps of two students and their mean teachers."""
    labels, reference, soft_logits = z.tensors("targets", "emb_ref", "logits_ref")
    unit = F.normalize(reference, dim=-1)
    smoothing = z.number("epsilon")
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
        x = z.tensor(key).requires_grad_()
        loss = function(x)
        yield z.close(f"{name} loss", loss, f"{name}_loss")
        yield z.close(f"{name} gradient", gradient(loss, x), f"{name}_grad")
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
    students = {f"m{i}": _Tables(z, f"m{i}") for i in (1, 2)}
    first = students["m1"]
    objective = SoftmaxTriplet(
        smoothing=z.number("epsilon"),
        softmax_weight=1 - soft_ce,
        triplet_weight=1 - soft_tri,
        before_neck=True,
    )
    unit = torch.eye(first.dim, dtype=first.emb.dtype)[None]  # the file has logits, not products
    objective.classifier = nn.Parameter(unit, requires_grad=False)
    objective.clusters = classes
    distiller = MutualTeachers(
        _Tables(z, "ema1"), [students["m2"]], soft_ce, soft_tri, alpha=z.number("step_alpha")
    )
    distiller.prepare(objective)
    second_objective = cast(SoftmaxTriplet, distiller.hard)
    teachers = dict(zip(("ema1", "ema2"), distiller.teachers, strict=True))
    teachers["ema2"].load_state_dict(_Tables(z, "ema2").state_dict())
    parameters = [p for student in students.values() for p in student.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=z.number("step_sgd_lr"))
    for step in range(len(z["step_epochs"])):
        number = int(z["step_epochs"][step] * z["step_iters_per_epoch"] + z["step_iters"][step])
        yield equal(f"step {step} number", number, z[f"step{step}_global_step"])
        distiller.steps = number  # the file leaves some steps out
        rows = torch.arange(len(labels)) + int(z[f"step{step}_row_offset"])
        batch = Batch(rows, labels, rows, (rows,))
        x = first(rows)
        loss = objective(x, labels, rows) + distiller(x, batch, objective)
        optimizer.zero_grad()
        loss.backward()
        hard = torch.cat([objective.terms, second_objective.terms], dim=1)
        terms = torch.cat([hard.flatten(), distiller.terms.sum(dim=0)])
        key = f"step{step}_terms_ce1_ce2_tri1_tri2_cesoft_trisoft"
        yield z.close(f"step {step} terms", terms, key)
        yield z.close(f"step {step} loss", loss, f"step{step}_loss")
        optimizer.step()
        distiller.step(first, objective)
        for i in (1, 2):
            for what in ("emb", "logits"):
                average = getattr(teachers[f"ema{i}"], what)
                key = f"step{step}_ema{i}_{what}_after"
                yield z.close(f"step {step} teacher's {what}", average, key)
                grad, key = getattr(students[f"m{i}"], what).grad, f"step{step}_grad_m{i}_{what}"
                yield z.close(f"step {step} gradient of {what}", grad, key)
