"""BUC's loss: every cluster repels every other, from a memory that starts empty."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import ema_rows
from harness.components.objectives.views import view_cross_entropies, view_logits, view_weights
from harness.core.errors import ConfigError
from harness.core.interfaces import Objective


class ExclusiveMemory(Objective):
    """L = Σ_v w_v CE(t x_v M_vᵀ, y), x = dropout(norm(embedding)), then M_y ← norm((M_y + x) / 2).

    The repelled loss of Lin et al., *A Bottom-Up Clustering Approach to Unsupervised Person
    Re-identification*, AAAI 2019, with t = 1/τ. Rows follow image by image, in batch order.

    M is zero after the labels have changed, so until a cluster has been seen its logit is 0; as
    long as the labels stay, epoch after epoch, so does M. It has room for as many clusters as
    there are images, which is what BUC begins with.

    Args:
        scale: t.
        momentum: share of the old row that is kept; ½, above.
        dropout: share of x that is zeroed in training; the rest is scaled up, so x has no unit
            length any more, in the memory either.
        part_weight: λ2; w = (1 − λ2, λ2, …).
    """

    reads_features = False
    memory: Tensor
    labels: Tensor

    def __init__(
        self,
        scale: float = 10.0,
        momentum: float = 0.5,
        dropout: float = 0.5,
        part_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if scale <= 0:
            raise ConfigError(f"objective.scale={scale} must be above 0.")
        if not 0 <= dropout < 1:
            raise ConfigError(f"objective.dropout={dropout} must lie in [0, 1).")
        for name, share in (("momentum", momentum), ("part_weight", part_weight)):
            if not 0 <= share <= 1:
                raise ConfigError(f"objective.{name}={share} must lie in [0, 1].")
        self.scale = scale
        self.momentum = momentum
        self.dropout = dropout
        self.part_weight = part_weight
        self.clusters = 0
        self._batch: tuple[Tensor, Tensor] | None = None

    def prepare(self, views: int, dim: int, images: int) -> None:
        #: (V, N, D); the first K rows are in use, of unit length or zero
        self.register_buffer("memory", torch.zeros(views, images, dim))
        #: (N,) the labels that the memory is of; −2: none yet
        self.register_buffer("labels", torch.full((images,), -2))

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        self.clusters = int(labels.max()) + 1
        if not torch.equal(labels, self.labels.to(labels.device)):
            self.memory.zero_()
            self.labels.copy_(labels)

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if self.memory.device != embeddings.device:
            self.to(embeddings.device)
        features = F.dropout(F.normalize(embeddings, dim=-1), self.dropout, self.training)
        return self.contrast(features, labels)

    def logits(self, features: Tensor) -> Tensor:
        """t x Mᵀ of features (B, V, D), as they are: (V, B, K)."""
        return self.scale * view_logits(features, self.memory[:, : self.clusters])

    def contrast(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of features (B, V, D), as they are."""
        terms = view_cross_entropies(self.logits(features), labels)
        self._batch = (features.detach(), labels)
        return (view_weights(len(terms), self.part_weight, terms) * terms).sum()

    @torch.no_grad()
    def update(self, frozen: bool = False) -> None:
        batch, self._batch = self._batch, None
        if frozen or batch is None:
            return
        features, labels = batch
        for v, memory in enumerate(self.memory):
            ema_rows(memory, features[:, v], labels, self.momentum)
