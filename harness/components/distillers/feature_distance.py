"""MSKD's distillation: the student's features follow those of a teacher."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

from harness.components.distillers.teacher import Alpha, AveragedTeacher, BatchNorm, Ramp, Teacher
from harness.components.objectives.options import PartWeight
from harness.components.objectives.views import weigh_views
from harness.core.interfaces import Backbone, Batch, Objective

Weight = Annotated[NonNegativeFloat, Field(description="μ, the weight of the distillation loss")]


class FeatureDistance:
    """μ Σ_v w_v (1/B) Σ_b ‖norm(student_v,b) − norm(teacher_v,b)‖², no gradient to the teacher.

    w = (1 − λ2, λ2, …) with λ2 = `part_weight`, as in MSKD (arXiv 2204.09931) for three views.
    """

    def __init__(self, weight: float, part_weight: float) -> None:
        self.weight = weight
        self.part_weight = part_weight
        #: (V,) squared distances of the last batch, before weighting
        self.terms = torch.empty(0)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Embeddings (B, V, D) of both, not normalized, to the loss."""
        target = F.normalize(teacher.detach(), dim=-1)
        terms = (F.normalize(student, dim=-1) - target).square().sum(-1).mean(0)
        self.terms = terms.detach()
        return self.weight * weigh_views(terms, self.part_weight)


class _FeatureTeacher(Teacher):
    """A teacher whose features its student follows."""

    distance: FeatureDistance
    keeps_order = True

    def forward(self, student: Tensor, batch: Batch, objective: Objective) -> Tensor:
        with torch.no_grad():
            target = batch.embed(self.teacher, batch.images)
        return self.distance(student, target)


class OfflineTeacher(_FeatureTeacher):
    """`FeatureDistance` to a finished network that is not trained further.

    Lan et al., *Learning to Purification for Unsupervised Person Re-identification* (MSKD, arXiv
    2204.09931). With batch_norm=train, as in the published code, the teacher's running statistics
    drift. With one warm-up epoch, as published, nothing reads them: that epoch is labeled first.
    """

    def __init__(
        self,
        teacher: Annotated[
            Backbone,
            Field(description="a stage of this method, or a finished run (its name or folder)"),
        ],
        weight: Weight = 1.0,
        part_weight: PartWeight = 0.0,
        batch_norm: BatchNorm = "train",
    ) -> None:
        super().__init__(teacher, batch_norm)
        self.distance = FeatureDistance(weight, part_weight)


class MeanTeacher(_FeatureTeacher, AveragedTeacher):
    """`FeatureDistance` to a moving average of the student; MMT's and ICE's losses differ.

    `method=mskd distiller=mean_teacher` changes where MSKD's teacher comes from and nothing else.
    The student labels the epochs and is tested.
    """

    def __init__(
        self, teacher: Backbone, weight: Weight = 1.0, part_weight: PartWeight = 0.0,
        alpha: Alpha = 0.999, ramp: Ramp = True, batch_norm: BatchNorm = "train",
    ) -> None:  # fmt: skip
        super().__init__(teacher, alpha, ramp, batch_norm)
        self.distance = FeatureDistance(weight, part_weight)
