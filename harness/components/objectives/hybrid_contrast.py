"""HHCL's loss: each cluster has a row that follows its hardest samples and one for their mean."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import centroids, ema_rows, hardest, label_means
from harness.components.objectives.views import view_cross_entropies, view_logits, view_weights
from harness.core.errors import ConfigError
from harness.core.interfaces import Objective


class HardHybridMemory(Objective):
    """L = Σ_v w_v (a CE(x_v H_vᵀ / τ, y) + b CE(x_v M_vᵀ / τ, y)), x = norm(embedding).

    Hu et al., *Hard-sample Guided Hybrid Contrast Learning for Unsupervised Person
    Re-Identification*, 2021. H and M both start at the normalised cluster means of the epoch. After
    the gradient, for each label of the batch, its row of H follows the sample least similar to it,
    its row of M the mean of its samples: m_y ← norm(μ m_y + (1 − μ) f).

    Args:
        temperature: τ.
        momentum: μ, the share of the old row that is kept.
        hard_weight: a.
        mean_weight: b. With h = 0.5 the paper's is 1 − h = 0.5; the published code multiplies it by
            h once more, by the place of a bracket, and trains with 0.25, which is the default.
        smoothing: ε of label smoothing, (1 − ε) one-hot + ε/K. The published code has it as an
            option, off; from 100 clusters on that is of another kind, which is not built here.
        part_weight: λ2; w = (1 − λ2, λ2, …).
    """

    def __init__(
        self,
        temperature: float = 0.05,
        momentum: float = 0.1,
        hard_weight: float = 0.5,
        mean_weight: float = 0.25,
        smoothing: float = 0.0,
        part_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ConfigError(f"objective.temperature={temperature} must be above 0.")
        for name, share in (
            ("momentum", momentum), ("smoothing", smoothing), ("part_weight", part_weight),
        ):  # fmt: skip
            if not 0 <= share <= 1:
                raise ConfigError(f"objective.{name}={share} must lie in [0, 1].")
        if min(hard_weight, mean_weight) < 0 or hard_weight + mean_weight == 0:
            raise ConfigError(
                f"objective.hard_weight={hard_weight} and objective.mean_weight={mean_weight} "
                "must not be negative, nor both 0."
            )
        self.temperature = temperature
        self.momentum = momentum
        self.hard_weight = hard_weight
        self.mean_weight = mean_weight
        self.smoothing = smoothing
        self.part_weight = part_weight
        #: H and M, (V, K, D) each, rows of unit length
        self.hard = torch.empty(0)
        self.mean = torch.empty(0)
        #: (2, V) cross-entropies of the last batch with H and with M, before weighing
        self.terms = torch.empty(0)
        self._batch: tuple[Tensor, Tensor] | None = None

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        self.hard = centroids(features, labels)
        self.mean = self.hard.clone()

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if self.hard.device != embeddings.device:
            self.hard, self.mean = (m.to(embeddings.device) for m in (self.hard, self.mean))
        return self.contrast(F.normalize(embeddings, dim=-1), labels)

    def contrast(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of features (B, V, D) of unit length, as they are."""
        hard, mean = (
            view_cross_entropies(
                view_logits(features, memory) / self.temperature, labels, self.smoothing
            )
            for memory in (self.hard, self.mean)
        )
        self.terms = torch.stack([hard, mean]).detach()
        self._batch = (features.detach(), labels)
        weights = view_weights(len(hard), self.part_weight, hard)
        return (weights * (self.hard_weight * hard + self.mean_weight * mean)).sum()

    @torch.no_grad()
    def update(self, frozen: bool = False) -> None:
        batch, self._batch = self._batch, None
        if frozen or batch is None:
            return
        features, labels = batch
        present, inverse = torch.unique(labels, return_inverse=True)
        means = label_means(features, inverse, len(present))
        for v in range(features.shape[1]):
            view = features[:, v]
            chosen = hardest(self.hard[v], view, labels)
            ema_rows(self.hard[v], view[chosen], labels[chosen], self.momentum)
            ema_rows(self.mean[v], means[v], present, self.momentum)
