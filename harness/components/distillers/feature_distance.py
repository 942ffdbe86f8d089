"""MSKD's distance between a student's features and its teacher's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.views import view_weights
from harness.core.errors import ConfigError


class FeatureDistance:
    """μ Σ_v w_v (1/B) Σ_b ‖norm(student_v,b) − norm(teacher_v,b)‖², no gradient to the teacher.

    w = (1 − λ2, λ2, …), as MSKD (arXiv 2204.09931) has it for three views.

    Args:
        weight: μ.
        part_weight: λ2.
    """

    def __init__(self, weight: float, part_weight: float) -> None:
        if weight < 0:
            raise ConfigError(f"distiller.weight={weight} must not be negative.")
        self.weight = weight
        self.part_weight = part_weight
        #: (V,) squared distances of the last batch, before weighing
        self.terms = torch.empty(0)

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Embeddings (B, V, D) of both, not normalised, to the loss."""
        target = F.normalize(teacher.detach(), dim=-1)
        terms = (F.normalize(student, dim=-1) - target).square().sum(-1).mean(0)
        self.terms = terms.detach()
        return self.weight * (view_weights(len(terms), self.part_weight, terms) * terms).sum()
