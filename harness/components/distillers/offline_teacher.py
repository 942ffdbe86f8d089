"""MSKD's distillation: the student's features follow those of a frozen, finished teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.components.distillers.feature_distance import FeatureDistance
from harness.components.distillers.teacher import Teacher
from harness.core.interfaces import Backbone, Batch, Objective


class OfflineTeacher(Teacher):
    """`FeatureDistance` to a finished network that stays as it is.

    Lan et al., *Learning to Purification for Unsupervised Person Re-identification* (MSKD, arXiv
    2204.09931). With `batch_norm=train`, as the published code has it, the teacher's running
    statistics drift, which nothing reads with one warm-up epoch, as published: that is labelled
    first.

    Args:
        teacher, batch_norm: see `Teacher`.
        weight, part_weight: see `FeatureDistance`.
    """

    keeps_order = True

    def __init__(
        self,
        teacher: Backbone,
        weight: float = 1.0,
        part_weight: float = 0.0,
        batch_norm: str = "train",
    ) -> None:
        super().__init__(teacher, batch_norm)
        self.distance = FeatureDistance(weight, part_weight)

    def forward(self, student: Tensor, batch: Batch, objective: Objective) -> Tensor:
        with torch.no_grad():
            target = batch.embed(self.teacher, batch.images)
        return self.distance(student, target)
