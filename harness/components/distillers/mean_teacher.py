"""A teacher that is the moving average of its student, with MSKD's distance."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.components.distillers.averaged_teacher import AveragedTeacher
from harness.components.distillers.feature_distance import FeatureDistance
from harness.core.interfaces import Backbone, Batch, Objective


class MeanTeacher(AveragedTeacher):
    """`FeatureDistance` to an average of the student.

    MMT's and ICE's losses are others (`MutualTeachers`, `InstanceTeacher`); this one is MSKD's:
    `method=mskd distiller=mean_teacher` changes nothing of MSKD but where its teacher comes from.
    Epochs are labelled, and tests made, with the student.

    Args:
        teacher, alpha, ramp, batch_norm: see `AveragedTeacher`.
        weight, part_weight: see `FeatureDistance`.
    """

    keeps_order = True

    def __init__(
        self,
        teacher: Backbone,
        weight: float = 1.0,
        part_weight: float = 0.0,
        alpha: float = 0.999,
        ramp: bool = True,
        batch_norm: str = "train",
    ) -> None:
        super().__init__(teacher, alpha, ramp, batch_norm)
        self.distance = FeatureDistance(weight, part_weight)

    def forward(self, student: Tensor, batch: Batch, objective: Objective) -> Tensor:
        with torch.no_grad():
            target = batch.embed(self.teacher, batch.images)
        return self.distance(student, target)
