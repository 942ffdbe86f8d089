"""SpCL's loss: a memory of every image, compared with label by label."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import ema_rows, label_means
from harness.components.objectives.views import view_logits, view_weights
from harness.core.errors import ConfigError
from harness.core.interfaces import Objective

#: stands in the published code both under the fraction and in the logarithm
EPSILON = 1e-6


class HybridMemory(Objective):
    """L = −log(p + ε), p = exp(S_y) / (Σ_c exp(S_c) + ε), S_c = mean over rows of c of x·m / τ.

    Ge et al., *Self-paced Contrastive Learning with Hybrid Memory for Domain Adaptive Object
    Re-ID*, NeurIPS 2020, with the constants ε of its code. x is the normalised
    embedding; a row m_i is one image's feature and follows it, m_i ← norm(μ m_i + (1 − μ) x).

    The memory holds all N images, is filled with the features of the first epoch and lives through
    the run: only the labels change from epoch to epoch, and come from the memory itself
    (`features`), as published, so no features are extracted after the first epoch. After warm-up
    epochs, which leave it as it is, it is filled anew. An outlier (−1) is a label of its own: a
    negative to the others, although the sampler never draws it.

    Args:
        temperature: τ.
        momentum: μ, the share of the old row that is kept.
        part_weight: λ2; each view has a memory of its own, and the loss is Σ_v w_v L_v with
            w = (1 − λ2, λ2, …).
    """

    memory: Tensor
    begun: Tensor

    def __init__(
        self, temperature: float = 0.05, momentum: float = 0.2, part_weight: float = 0.0
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
        #: (N,) the epoch's labels, outliers numbered after the clusters
        self.labels = torch.empty(0, dtype=torch.int64)
        #: (L,) whether any image has this label
        self.used = torch.empty(0, dtype=torch.bool)
        self._batch: tuple[Tensor, Tensor] | None = None

    def prepare(self, views: int, dim: int, images: int) -> None:
        #: (N, V, D), rows of unit length
        self.register_buffer("memory", torch.zeros(images, views, dim))
        #: whether a batch has been taken in
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def features(self) -> Tensor | None:
        """The memory, once it has taken in a batch."""
        return self.memory if bool(self.begun) else None

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        if not self.begun:
            self.memory.copy_(features)
        self.set_labels(labels)

    def set_labels(self, labels: Tensor) -> None:
        """Take the labels (N,); each outlier gets the next number that is free."""
        alone = (labels < 0).nonzero().flatten()
        first = int(labels.max()) + 1
        fresh = torch.arange(first, first + len(alone), device=labels.device)
        self.labels = labels.index_copy(0, alone, fresh)
        self.used = torch.bincount(self.labels) > 0

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if self.memory.device != embeddings.device:
            self.to(embeddings.device)
            self.labels, self.used = (t.to(embeddings.device) for t in (self.labels, self.used))
        return self.contrast(F.normalize(embeddings, dim=-1), indices)

    def contrast(self, features: Tensor, indices: Tensor) -> Tensor:
        """The loss of features (B, V, D) of unit length, as they are, of the images (B,)."""
        # the mean of inner products is the inner product with the mean
        means = label_means(self.memory, self.labels, len(self.used))
        scores = view_logits(features, means) / self.temperature
        scores = scores.masked_fill(~self.used, -math.inf)
        # exp(S_y) / (Σ_c exp(S_c) + ε) without powers that could overflow
        total = scores.logsumexp(dim=-1)
        total = torch.logaddexp(total, torch.full_like(total, math.log(EPSILON)))
        targets = self.labels[indices].expand(len(scores), -1)
        share = (scores.gather(-1, targets[..., None]).squeeze(-1) - total).exp()
        terms = -(share + EPSILON).log().mean(dim=1)
        self._batch = (features.detach(), indices)
        return (view_weights(len(terms), self.part_weight, terms) * terms).sum()

    @torch.no_grad()
    def update(self, frozen: bool = False) -> None:
        batch, self._batch = self._batch, None
        if frozen or batch is None:
            return
        features, indices = batch
        for v in range(features.shape[1]):
            ema_rows(self.memory[:, v], features[:, v], indices, self.momentum)
        self.begun.fill_(True)
