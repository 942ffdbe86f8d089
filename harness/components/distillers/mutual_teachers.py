"""MMT: two students, each taught by the other's moving average."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from harness.components.distillers.teacher import (
    Alpha,
    AveragedTeacher,
    BatchNorm,
    Ramp,
    exact,
    set_mode,
)
from harness.components.objectives.classification import soft_cross_entropy, soft_triplet
from harness.components.objectives.options import PartWeight
from harness.components.objectives.views import weigh_views
from harness.core.interfaces import Backbone, Batch, Objective


class MutualTeachers(AveragedTeacher):
    """Hard labels for a second student, soft ones for both, each from the other's mean teacher:

    L = L_obj(x₂) + ρ [H(t₂, x₁) + H(t₁, x₂)] + λ [T(t₂, x₁) + T(t₁, x₂)],

    H the cross-entropy of a student's label scores with the teacher's, T the soft triplet loss
    whose target is the teacher's own softmax of the distances of the pairs that are hardest for
    the student. L_obj(x₁) is the objective's. Ge, Chen, Li, *Mutual Mean-Teaching*, ICLR 2020, eq.
    6 to 9. Student and teacher i see copy i of the batch, each copy augmented by its own draws.
    `teacher` is a copy of the first student, `peers` holds the second.

    The second student and both teachers have their own classifiers; those of the teachers are
    averages too. All four classifiers are set to the cluster means when an epoch starts.

    The mean of both teachers' features labels the epochs; the first student's teacher is tested.
    The published code tests both and reports the better one.
    """

    peers = 1
    augmentations = 2
    needs_classifier = True
    keeps_order = True

    def __init__(
        self,
        teacher: Backbone,
        peers: Sequence[Backbone],
        softmax_weight: Annotated[
            NonNegativeFloat,
            Field(description="ρ; published with 1 − ρ for the objective's softmax"),
        ] = 0.5,
        triplet_weight: Annotated[
            NonNegativeFloat,
            Field(description="λ; published with 1 − λ for the objective's triplet"),
        ] = 0.8,
        part_weight: PartWeight = 0.0,
        alpha: Alpha = 0.999,
        ramp: Ramp = True,
        batch_norm: BatchNorm = "train",
    ) -> None:
        super().__init__(teacher, alpha, ramp, batch_norm)
        self.softmax_weight = softmax_weight
        self.triplet_weight = triplet_weight
        self.part_weight = part_weight
        (self.student,) = peers
        self._other_teacher = copy.deepcopy(self.student).requires_grad_(False).eval()
        #: the second student's objective, and the two teachers', made by `prepare`
        self.hard: Objective
        self.scorers = nn.ModuleList()
        #: (2, 2): soft softmax and soft triplet loss of each student in the last batch
        self.terms = torch.empty(0)
        self._frozen = False

    @property
    def teachers(self) -> tuple[Backbone, Backbone]:
        return self._teacher, self._other_teacher

    @property
    def labeled_by(self) -> tuple[Backbone, ...]:
        return self.teachers

    @property
    def tested(self) -> tuple[str, Backbone]:
        return "mean teacher of the first student", self._teacher

    def prepare(self, objective: Objective) -> None:
        self.hard = copy.deepcopy(objective)
        copies = [copy.deepcopy(objective).requires_grad_(False) for _ in self.teachers]
        self.scorers = nn.ModuleList(copies)

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        set_mode(self._other_teacher, self.batch_norm)
        self.student.train()
        self._frozen = epoch < 0

    def relabel(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        for objective in (self.hard, *self._scorers):
            objective.start_epoch(features, labels, cameras)

    def forward(self, student: Tensor, batch: Batch, objective: Objective) -> Tensor:
        other = exact(batch.embed(self.student, batch.others[0]))
        with torch.no_grad():
            inputs = zip(self.teachers, (batch.images, batch.others[0]), strict=True)
            targets = [exact(batch.embed(teacher, x)) for teacher, x in inputs]
        with torch.autocast(student.device.type, enabled=False):
            loss = self.hard(other, batch.labels, batch.indices)
            first, second = self._scorers
            terms = [
                self._soft(student, objective, targets[1], second, batch.labels),
                self._soft(other, self.hard, targets[0], first, batch.labels),
            ]
            soft = torch.stack([torch.stack(term) for term in terms])
            self.terms = soft.detach()
            softmax, triplet = soft.sum(dim=0)
            return loss + self.softmax_weight * softmax + self.triplet_weight * triplet

    def _soft(
        self, student: Tensor, own: Objective, teacher: Tensor, scorer: Objective, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """H and T of one student."""
        pairs = zip(own.logits(student), scorer.logits(teacher), strict=True)
        scores = torch.stack([soft_cross_entropy(ours, theirs) for ours, theirs in pairs])
        metric, reference = own.metric_view(student), scorer.metric_view(teacher)
        softmax = weigh_views(scores, self.part_weight)
        return softmax, soft_triplet(metric, labels, reference=reference)

    def step(self, student: nn.Module, objective: Objective | None = None) -> None:
        assert objective is not None
        self.hard.update(self._frozen)
        self.follow(self._other_teacher, self.student)
        for scorer, source in zip(self._scorers, (objective, self.hard), strict=True):
            self.follow(scorer, source)
        super().step(student)

    @property
    def _scorers(self) -> list[Objective]:
        return list(self.scorers)  # type: ignore[arg-type]
