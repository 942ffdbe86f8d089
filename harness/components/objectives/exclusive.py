"""BUC's loss: every cluster repels every other, from a memory that starts empty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import MemoryObjective, ema_views
from harness.components.objectives.options import Momentum, PartWeight
from harness.components.objectives.views import view_cross_entropies, view_logits, weigh_views


@dataclass(eq=False, repr=False)
class ExclusiveMemory(MemoryObjective):
    """L = Σ_v w_v CE(t x_v M_vᵀ, y), x = dropout(norm(embedding)), then M_y ← norm((M_y + x) / 2).

    The repelled loss of Lin et al., *A Bottom-Up Clustering Approach to Unsupervised Person
    Re-identification*, AAAI 2019, with t = 1/τ. Rows follow image by image, in batch order. Dropout
    scales the kept features up, so x, in the memory too, is not of unit length.

    When labels change, M is set to zero, so a cluster has logit 0 until its first image; while they
    stay, M lives on from epoch to epoch. M has a row for each image, since BUC begins with as many
    clusters.
    """

    scale: Annotated[PositiveFloat, Field(description="t, the inverse temperature")] = 10.0
    momentum: Momentum = 0.5
    dropout: Annotated[float, Field(ge=0, lt=1, description="on normalized embeddings")] = 0.5
    part_weight: PartWeight = 0.0

    reads_features = False

    def __post_init__(self) -> None:
        super().__init__()
        self.clusters = 0

    def prepare(self, views: int, dim: int, images: int) -> None:
        #: (V, N, D); the first K rows are in use, of unit length or zero
        self.memory: Tensor
        self.register_buffer("memory", torch.zeros(views, images, dim))
        #: (N,) the labels that the memory is of; −2: none yet
        self.labels: Tensor
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
        self._batch = (features.detach(), labels)
        return weigh_views(view_cross_entropies(self.logits(features), labels), self.part_weight)

    def follow(self, features: Tensor, rows: Tensor) -> None:
        ema_views(self.memory, features, rows, self.momentum)
