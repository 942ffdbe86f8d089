"""Golden case of MMT's losses and of its mean teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.distillers import MeanTeacher
from harness.interfaces import Backbone
from harness.objectives.classification import (
    hard_triplet,
    smoothed_cross_entropy,
    soft_cross_entropy,
    soft_triplet,
)
from harness.verification.cases import Check, Vectors, case, close, equal

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
    """A network whose outputs are its parameters: an embedding and logits for every row."""

    def __init__(self, z: Vectors, name: str) -> None:
        super().__init__()
        self.emb = nn.Parameter(_tensor(z[f"step_{name}_emb"]))
        self.logits = nn.Parameter(_tensor(z[f"step_{name}_logits"]))
        self.views, self.dim = ("global",), self.emb.shape[1]
        self.classes = int(z["num_classes"])

    def forward(self, images: Tensor) -> Tensor:
        return self.emb[images][:, None]

    def outputs(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Embeddings, and the logits of the first K columns."""
        return self.emb[rows], self.logits[rows, : self.classes]


def _steps(z: Vectors) -> Iterator[Check]:
    """Each student learns from hard labels and from the other's teacher, which then follows."""
    labels, smoothing = _tensor(z["targets"]), float(z["epsilon"])
    soft_ce, soft_tri = float(z["step_ce_soft_weight"]), float(z["step_tri_soft_weight"])
    students = [_Tables(z, f"m{i}") for i in (1, 2)]
    teachers = [MeanTeacher(_Tables(z, f"ema{i}"), alpha=float(z["step_alpha"])) for i in (1, 2)]
    optimizer = torch.optim.SGD(
        [p for student in students for p in student.parameters()], lr=float(z["step_sgd_lr"])
    )
    for step in range(len(z["step_epochs"])):
        g = int(z["step_epochs"][step] * z["step_iters_per_epoch"] + z["step_iters"][step])
        yield equal(f"step {step} number", g, z[f"step{step}_global_step"])
        offset = int(z[f"step{step}_row_offset"])
        rows = slice(offset, offset + len(labels))
        own = [student.outputs(rows) for student in students]
        other = [cast(_Tables, t.teacher).outputs(rows) for t in reversed(teachers)]
        terms = [
            *(smoothed_cross_entropy(logits, labels, smoothing) for _, logits in own),
            *(soft_triplet(emb, labels) for emb, _ in own),
            sum(soft_cross_entropy(a[1], b[1]) for a, b in zip(own, other, strict=True)),
            sum(
                soft_triplet(a[0], labels, reference=b[0]) for a, b in zip(own, other, strict=True)
            ),
        ]
        ce1, ce2, tri1, tri2, ce_soft, tri_soft = (torch.as_tensor(term) for term in terms)
        loss = (ce1 + ce2) * (1 - soft_ce) + (tri1 + tri2) * (1 - soft_tri)
        loss = loss + soft_ce * ce_soft + soft_tri * tri_soft
        optimizer.zero_grad()
        loss.backward()
        theirs = z[f"step{step}_terms_ce1_ce2_tri1_tri2_cesoft_trisoft"]
        ours = torch.stack([ce1, ce2, tri1, tri2, ce_soft, tri_soft])
        yield close(f"step {step} terms", ours, theirs, EXACT)
        yield close(f"step {step} loss", loss, z[f"step{step}_loss"], EXACT)
        optimizer.step()
        for i, (student, teacher) in enumerate(zip(students, teachers, strict=True), start=1):
            teacher.steps = g  # the vectors leave some steps out
            teacher.step(student)
            network = cast(_Tables, teacher.teacher)
            for what in ("emb", "logits"):
                grad = getattr(student, what).grad
                yield close(
                    f"step {step} gradient of {what}",
                    grad,
                    z[f"step{step}_grad_m{i}_{what}"],
                    EXACT,
                )
                yield close(
                    f"step {step} teacher's {what}", getattr(network, what),
                    z[f"step{step}_ema{i}_{what}_after"], EXACT,
                )  # fmt: skip
