"""MMT: two students, each taught by the other's moving average."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from harness.components.distillers.averaged_teacher import AveragedTeacher
from harness.components.distillers.teacher import exact
from harness.components.objectives.classification import soft_cross_entropy, soft_triplet
from harness.components.objectives.views import view_weights
from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone, Batch, Objective


class MutualTeachers(AveragedTeacher):
    """Hard labels for a second student, soft ones for both, each from the other's mean teacher:

    L = L_obj(x₂) + ρ [H(t₂, x₁) + H(t₁, x₂)] + λ [T(t₂, x₁) + T(t₁, x₂)],

    H the cross-entropy of a student's label scores with the teacher's, T the soft triplet loss
    whose target is the teacher's own softmax of the distances of the pairs that are hardest for
    the student. L_obj(x₁) is the objective's. Ge, Chen, Li, *Mutual Mean-Teaching*, ICLR 2020, eq.
    6 to 9. Student and teacher i see copy i of the batch, augmented each by its own draws.

    The second student and both teachers have classifiers of their own; those of the teachers are
    averages as the rest of them is. All four are set to the cluster means when an epoch starts.

    Epochs are labelled by the mean of both teachers' features; tests are made with the first
    student's teacher. The published code tests both and reports the better one.

    Args:
        teacher: a copy of the first student. peers: the second.
        softmax_weight: ρ; published with 1 − ρ for the objective's softmax.
        triplet_weight: λ; published with 1 − λ for the objective's triplet loss.
        part_weight: of each part view's scores, as in the objective.
        alpha, ramp, batch_norm: see `AveragedTeacher`.
    """

    peers = 1
    copies = 2
    needs_classifier = True
    keeps_order = True

    def __init__(
        self,
        teacher: Backbone,
        peers: Sequence[Backbone],
        softmax_weight: float = 0.5,
        triplet_weight: float = 0.8,
        part_weight: float = 0.0,
        alpha: float = 0.999,
        ramp: bool = True,
        batch_norm: str = "train",
    ) -> None:
        super().__init__(teacher, alpha, ramp, batch_norm)
        for name, weight in (("softmax", softmax_weight), ("triplet", triplet_weight)):
            if weight < 0:
                raise ConfigError(f"distiller.{name}_weight={weight} must not be negative.")
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
        """Of the first student, of the second."""
        return self._teacher, self._other_teacher

    @property
    def labelled_by(self) -> tuple[Backbone, ...]:
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
        self._other_teacher.train(self.batch_norm == "train")
        self.student.train()
        self._frozen = epoch < 0

    def relabel(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        for objective in (self.hard, *self._scorers):
            objective.start_epoch(features, labels, cameras)

    def forward(self, student: Tensor, batch: Batch, objective: Objective) -> Tensor:
        other = exact(batch.embed(self.student, batch.others[0]))
        with torch.no_grad():
            inputs = (batch.images, batch.others[0])
            targets = [
                exact(batch.embed(teacher, x))
                for teacher, x in zip(self.teachers, inputs, strict=True)
            ]
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
        weights = view_weights(len(scores), self.part_weight, scores)
        metric, reference = own.metric_view(student), scorer.metric_view(teacher)
        return (weights * scores).sum(), soft_triplet(metric, labels, reference=reference)

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
