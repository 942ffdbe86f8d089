"""ICE: the images of a batch against their mean teacher's embeddings of other augmentations."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from harness.components.distillers.teacher import Alpha, AveragedTeacher, BatchNorm, Ramp, exact
from harness.components.objectives.options import PartWeight, Temperature
from harness.components.objectives.proxy_contrast import consistency, hard_instance
from harness.components.objectives.views import weigh_views
from harness.core.interfaces import Backbone, Batch, Objective


class InstanceTeacher(AveragedTeacher):
    """L = ρ L_hard(x, y) + λ L_soft(x, y, u), of student embeddings x and a mean teacher's y, u.

    Chen, Lagadec, Brémond, *ICE: Inter-instance Contrastive Encoding for Unsupervised Person
    Re-identification*, ICCV 2021. x and y come from two augmentations of each image, u from the
    image without augmentation; see `hard_instance` (temperature τ) and `consistency` (T). The mean
    teacher labels the epochs and is tested. As published there is no ramp and no part view.

    The batches that the teacher sees set its running statistics, with which it labels and is
    tested. As in the published code it therefore also sees the student's augmentation, and each
    batch in an order of its own, which matters where statistics are taken over parts of a batch.
    """

    augmentations = 2
    needs_plain = True

    def __init__(
        self,
        teacher: Backbone,
        hard_weight: Annotated[NonNegativeFloat, Field(description="ρ, weight of L_hard")] = 1.0,
        soft_weight: Annotated[NonNegativeFloat, Field(description="λ, weight of L_soft")] = 1.0,
        hard_temperature: Temperature = 0.1,
        soft_temperature: Temperature = 0.4,
        soft_factor: Annotated[
            NonNegativeFloat,
            Field(description="factor of L_soft besides λ, as in the authors' code"),
        ] = 10.0,
        part_weight: PartWeight = 0.0,
        alpha: Alpha = 0.999,
        ramp: Ramp = False,
        batch_norm: BatchNorm = "train",
    ) -> None:
        super().__init__(teacher, alpha, ramp, batch_norm)
        self.hard_weight = hard_weight
        self.soft_weight = soft_weight
        self.hard_temperature = hard_temperature
        self.soft_temperature = soft_temperature
        self.soft_factor = soft_factor
        self.part_weight = part_weight
        #: (2, V) hard and soft losses of the last batch, before weighting
        self.terms = torch.empty(0)

    @property
    def labeled_by(self) -> tuple[Backbone, ...]:
        return (self._teacher,)

    @property
    def tested(self) -> tuple[str, Backbone]:
        return "mean teacher", self._teacher

    def forward(self, student: Tensor, batch: Batch, objective: Objective) -> Tensor:
        assert batch.plain is not None
        if self.batch_norm == "train":
            self._embed(batch, batch.images)
        y, u = self._embed(batch, batch.others[0]), self._embed(batch, batch.plain)
        with torch.autocast(student.device.type, enabled=False):
            views = list(zip(student.unbind(1), y.unbind(1), u.unbind(1), strict=True))
            hard = [hard_instance(x, y, batch.labels, self.hard_temperature) for x, y, _ in views]
            soft = [consistency(*xyu, self.soft_temperature, self.soft_factor) for xyu in views]
            terms = torch.stack([torch.stack(hard), torch.stack(soft)])
            self.terms = terms.detach()
            hard_loss, soft_loss = weigh_views(terms, self.part_weight)
            return self.hard_weight * hard_loss + self.soft_weight * soft_loss

    @torch.no_grad()
    def _embed(self, batch: Batch, images: Tensor) -> Tensor:
        """The teacher's embeddings (B, V, D) of a batch, computed in random order."""
        order = torch.randperm(len(images)).to(images.device)
        return exact(batch.embed(self._teacher, images[order]))[torch.argsort(order)]
