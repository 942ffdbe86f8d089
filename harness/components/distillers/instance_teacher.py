"""ICE: the images of a batch against their mean teacher's embeddings of other augmentations."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.components.distillers.averaged_teacher import AveragedTeacher
from harness.components.distillers.teacher import exact
from harness.components.objectives.instance_consistency import consistency, hard_instance
from harness.components.objectives.views import view_weights
from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone, Batch, Objective


class InstanceTeacher(AveragedTeacher):
    """L = ρ L_hard(x, y) + λ L_soft(x, y, u), of student embeddings x and a mean teacher's y, u.

    Chen, Lagadec, Brémond, *ICE: Inter-instance Contrastive Encoding for Unsupervised Person
    Re-identification*, ICCV 2021. x and y are of two augmentations of each image, u is of the image
    as it is; see `hard_instance` and `consistency`. Epochs are labelled, and tests made, with the
    mean teacher.

    Its running statistics, by which it labels and is tested, follow the batches that it sees. As
    published it also sees the student's own augmentation, for nothing else, and each batch in an
    order of its own, which matters where statistics are taken over parts of a batch.

    Args:
        teacher: a copy of the student.
        hard_weight: ρ. soft_weight: λ.
        hard_temperature: τ of L_hard. soft_temperature: T of L_soft.
        soft_factor: of L_soft, besides λ; 10 in the published code.
        part_weight: λ2, the weight of each part view; the method as published has none.
        alpha, ramp, batch_norm: see `AveragedTeacher`. As published there is no ramp.
    """

    copies = 2
    wants_plain = True

    def __init__(
        self,
        teacher: Backbone,
        hard_weight: float = 1.0,
        soft_weight: float = 1.0,
        hard_temperature: float = 0.1,
        soft_temperature: float = 0.4,
        soft_factor: float = 10.0,
        part_weight: float = 0.0,
        alpha: float = 0.999,
        ramp: bool = False,
        batch_norm: str = "train",
    ) -> None:
        super().__init__(teacher, alpha, ramp, batch_norm)
        for name, weight in (
            ("hard_weight", hard_weight), ("soft_weight", soft_weight),
            ("soft_factor", soft_factor), ("part_weight", part_weight),
        ):  # fmt: skip
            if weight < 0:
                raise ConfigError(f"distiller.{name}={weight} must not be negative.")
        for name, above in (
            ("hard_temperature", hard_temperature), ("soft_temperature", soft_temperature),
        ):  # fmt: skip
            if above <= 0:
                raise ConfigError(f"distiller.{name}={above} must be above 0.")
        self.hard_weight = hard_weight
        self.soft_weight = soft_weight
        self.hard_temperature = hard_temperature
        self.soft_temperature = soft_temperature
        self.soft_factor = soft_factor
        self.part_weight = part_weight
        #: (2, V) hard and soft losses of the last batch, before weighing
        self.terms = torch.empty(0)

    @property
    def labelled_by(self) -> tuple[Backbone, ...]:
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
            hard = [hard_instance(x, v, batch.labels, self.hard_temperature) for x, v, _ in views]
            soft = [
                consistency(*xyu, temperature=self.soft_temperature, factor=self.soft_factor)
                for xyu in views
            ]
            terms = torch.stack([torch.stack(hard), torch.stack(soft)])
            self.terms = terms.detach()
            weights = view_weights(len(views), self.part_weight, terms)
            hard_loss, soft_loss = (weights * terms).sum(dim=1)
            return self.hard_weight * hard_loss + self.soft_weight * soft_loss

    @torch.no_grad()
    def _embed(self, batch: Batch, images: Tensor) -> Tensor:
        """The teacher's embeddings of a batch (B, V, D), which it sees in random order."""
        order = torch.randperm(len(images)).to(images.device)
        return exact(batch.embed(self._teacher, images[order]))[torch.argsort(order)]
