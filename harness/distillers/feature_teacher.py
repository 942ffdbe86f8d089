"""What distillers share whose student follows a teacher's features: network, mode, distance."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.errors import ConfigError
from harness.interfaces import Backbone, Distiller
from harness.objectives.views import view_weights

Self = TypeVar("Self", bound="FeatureTeacher")


class FeatureTeacher(Distiller):
    """μ Σ_v w_v (1/B) Σ_b ‖norm(student_v,b) − norm(teacher_v,b)‖², the teacher without gradient.

    w = (1 − λ2, λ2, …), as MSKD (arXiv 2204.09931) has it for three views.

    Args:
        teacher: the network; it also labels the warm-up epochs.
        weight: μ.
        part_weight: λ2.
        batch_norm: `train` normalises the teacher's features by the batch's own statistics; `eval`
            takes the running ones.
    """

    def __init__(
        self,
        teacher: Backbone,
        weight: float = 1.0,
        part_weight: float = 0.0,
        batch_norm: str = "train",
    ) -> None:
        super().__init__()
        if batch_norm not in ("train", "eval"):
            raise ConfigError(f"distiller.batch_norm='{batch_norm}' is unknown: train or eval.")
        if weight < 0:
            raise ConfigError(f"distiller.weight={weight} must not be negative.")
        self._teacher = teacher.requires_grad_(False).eval()
        self.weight = weight
        self.part_weight = part_weight
        self.batch_norm = batch_norm
        #: (V,) squared distances of the last batch, before weighing
        self.terms = torch.empty(0)

    @property
    def teacher(self) -> Backbone:
        return self._teacher

    def start_epoch(self, epoch: int) -> None:
        self._teacher.train(self.batch_norm == "train")

    def forward(self, student: Tensor, images: Tensor) -> Tensor:
        with torch.no_grad():
            target = F.normalize(self._teacher(images), dim=-1)
        terms = (F.normalize(student, dim=-1) - target).square().sum(-1).mean(0)
        self.terms = terms.detach()
        return self.weight * (view_weights(len(terms), self.part_weight, terms) * terms).sum()

    def train(self: Self, mode: bool = True) -> Self:
        """The teacher's mode is its own (`batch_norm`), not the student's."""
        self.training = mode
        return self
