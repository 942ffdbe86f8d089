"""Cluster Contrast's loss: each image against a memory of cluster centres, one memory per view."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import centroids, ema_rows, hardest
from harness.components.objectives.views import view_cross_entropies, view_logits, view_weights
from harness.core.errors import ConfigError
from harness.core.interfaces import Objective


class ClusterMemory(Objective):
    """InfoNCE against cluster centres, L = Σ_v w_v CE(norm(x_v) M_vᵀ / τ, y).

    Dai et al., *Cluster Contrast for Unsupervised Person Re-Identification*, 2021, eq. 2 and 3, for
    one view; MSKD (arXiv 2204.09931) for three, weighed (1 − λ2, λ2, λ2). After the gradient the
    rows follow the batch: m_y ← norm(μ m_y + (1 − μ) f), image by image.

    Args:
        temperature: τ.
        momentum: μ, the share of the old row that is kept.
        part_weight: λ2.
        hard: update each row by its least similar sample only ("CMHard").
    """

    def __init__(
        self,
        temperature: float = 0.05,
        momentum: float = 0.1,
        part_weight: float = 0.0,
        hard: bool = False,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ConfigError(f"objective.temperature={temperature} must be above 0.")
        if not 0 <= momentum <= 1:
            raise ConfigError(f"objective.momentum={momentum} must lie in [0, 1].")
        if not 0 <= part_weight <= 1:
            raise ConfigError(f"objective.part_weight={part_weight} must lie in [0, 1].")
        self.temperature = temperature
        self.momentum = momentum
        self.part_weight = part_weight
        self.hard = hard
        #: (V, K, D), rows of unit length
        self.memory = torch.empty(0)
        #: (V,) cross-entropies of the last batch, before weighing
        self.terms = torch.empty(0)
        self._batch: tuple[Tensor, Tensor] | None = None

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        self.memory = centroids(features, labels)

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if self.memory.device != embeddings.device:
            self.memory = self.memory.to(embeddings.device)
        normal = F.normalize(embeddings, dim=-1)
        views = embeddings.shape[1]
        terms = view_cross_entropies(view_logits(normal, self.memory) / self.temperature, labels)
        self.terms = terms.detach()
        self._batch = (normal.detach(), labels)
        return (view_weights(views, self.part_weight, terms) * terms).sum()

    @torch.no_grad()
    def update(self, frozen: bool = False) -> None:
        batch, self._batch = self._batch, None
        if frozen or batch is None:
            return
        features, labels = batch
        for v, memory in enumerate(self.memory):
            view = features[:, v]
            chosen = hardest(memory, view, labels) if self.hard else slice(None)
            ema_rows(memory, view[chosen], labels[chosen], self.momentum)
