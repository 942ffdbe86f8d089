"""HHCL's and DCMIP's loss: each cluster has a row that follows samples, and one for their mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import memory
from harness.components.objectives.memory import MemoryObjective, ema_rows
from harness.components.objectives.options import Momentum, PartWeight, Smoothing, Temperature
from harness.components.objectives.views import view_cross_entropies, view_logits, weigh_views
from harness.core.errors import ConfigError


@dataclass(eq=False, repr=False)
class HardHybridMemory(MemoryObjective):
    """L = Σ_v w_v (a CE(x_v H_vᵀ / τ, y) + b CE(x_v M_vᵀ / τ, y)), x = norm(embedding).

    Hu et al., *Hard-sample Guided Hybrid Contrast Learning for Unsupervised Person
    Re-Identification*, 2021. H and M both start at the normalized cluster means of the epoch. After
    the gradient, for each label of the batch, its row of H follows the sample least similar to it,
    its row of M the mean of its samples: m_y ← norm(μ m_y + (1 − μ) f).

    The paper has b = 1 − a = 0.5. A misplaced bracket in the published code multiplies this by a,
    so it trains with b = 0.25, the default here. Label smoothing is an option of that code, off by
    default; its different form for 100 clusters and more is not implemented.

    The cluster term of DCMIP (Zou et al., *Discrepant and Multi-Instance Proxies for Unsupervised
    Person Re-identification*, ICCV 2023) has a = b = 0.5, and max(0, CE_H − r) in place of CE_H,
    the mean over the batch; its code lets H follow every sample, one after another.
    """

    temperature: Temperature = 0.05
    momentum: Momentum = 0.1
    hard_weight: Annotated[NonNegativeFloat, Field(description="a, weight of H")] = 0.5
    mean_weight: Annotated[
        NonNegativeFloat, Field(description="b, weight of M; 0.5 in the paper, 0.25 in its code")
    ] = 0.25
    smoothing: Smoothing = 0.0
    part_weight: PartWeight = 0.0
    hard_margin: Annotated[
        NonNegativeFloat, Field(description="r, the loss of H from which on it counts")
    ] = 0.0
    hard_update: Annotated[
        Literal["hardest", "every"],
        Field(description="H follows the hardest sample of each label, or every sample"),
    ] = "hardest"

    def __post_init__(self) -> None:
        super().__init__()
        if self.hard_weight + self.mean_weight == 0:
            raise ConfigError(
                "objective.hard_weight and objective.mean_weight are both 0: there is no loss.",
                "Set objective.hard_weight=0.5 and objective.mean_weight=0.25.",
            )
        #: H and M, (V, K, D) each, rows of unit length
        self.hard = torch.empty(0)
        self.mean = torch.empty(0)
        #: (2, V) cross-entropies of the last batch with H and with M, before weighting
        self.terms = torch.empty(0)

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        self.hard = memory.centroids(features, labels)
        self.mean = self.hard.clone()

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        self.hard, self.mean = (m.to(embeddings.device) for m in (self.hard, self.mean))
        return self.contrast(F.normalize(embeddings, dim=-1), labels)

    def contrast(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of features (B, V, D) of unit length, as they are."""
        logits = (view_logits(features, rows) / self.temperature for rows in (self.hard, self.mean))
        hard, mean = (view_cross_entropies(scores, labels, self.smoothing) for scores in logits)
        self.terms = torch.stack([hard, mean]).detach()
        self._batch = (features.detach(), labels)
        if self.hard_margin:
            hard = (hard - self.hard_margin).clamp(min=0)
        return weigh_views(self.hard_weight * hard + self.mean_weight * mean, self.part_weight)

    def follow(self, features: Tensor, rows: Tensor) -> None:
        present, inverse = torch.unique(rows, return_inverse=True)
        means = memory.label_means(features, inverse, len(present))
        for v in range(features.shape[1]):
            view = features[:, v]
            hardest = self.hard_update == "hardest"
            chosen = memory.hardest(self.hard[v], view, rows) if hardest else slice(None)
            ema_rows(self.hard[v], view[chosen], rows[chosen], self.momentum)
            ema_rows(self.mean[v], means[v], present, self.momentum)
