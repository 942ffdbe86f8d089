"""Cluster Contrast's loss: each image against a memory of cluster centers, one memory per view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import (
    MemoryObjective,
    centroids,
    draw_one_each,
    ema_rows,
    hardest,
)
from harness.components.objectives.options import Momentum, PartWeight, Temperature
from harness.components.objectives.views import view_cross_entropies, view_logits, weigh_views


@dataclass(eq=False, repr=False)
class ClusterMemory(MemoryObjective):
    """InfoNCE against cluster centers, L = Σ_v w_v CE(norm(x_v) M_vᵀ / τ, y).

    Dai et al., *Cluster Contrast for Unsupervised Person Re-Identification*, 2021, eq. 2 and 3, for
    one view; MSKD (arXiv 2204.09931) for three, weighted (1 − λ2, λ2, λ2). After the gradient the
    rows follow the batch: m_y ← norm(μ m_y + (1 − μ) f), image by image, or by the least similar
    image of each label only (`hard`, "CMHard"). A row starts as the normalized mean of its cluster,
    or as a member drawn at random (`start`, as in RTMem): the same image for all views.
    """

    temperature: Temperature = 0.05
    momentum: Momentum = 0.1
    part_weight: PartWeight = 0.0
    hard: Annotated[bool, Field(description="rows follow their hardest sample only")] = False
    start: Annotated[
        Literal["mean", "member"],
        Field(description="a row's start: its cluster's mean, or a member drawn in each epoch"),
    ] = "mean"

    def __post_init__(self) -> None:
        super().__init__()
        #: (V, K, D), rows of unit length
        self.memory = torch.empty(0)
        #: (V,) cross-entropies of the last batch, before weighting
        self.terms = torch.empty(0)

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        if self.start == "mean":
            self.memory = centroids(features, labels)
        else:
            self.memory = features[draw_one_each(labels)].transpose(0, 1).contiguous()

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        self.memory = self.memory.to(embeddings.device)
        return self.contrast(F.normalize(embeddings, dim=-1), labels)

    def contrast(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of features (B, V, D) of unit length, as they are."""
        terms = view_cross_entropies(view_logits(features, self.memory) / self.temperature, labels)
        self.terms = terms.detach()
        self._batch = (features.detach(), labels)
        return weigh_views(terms, self.part_weight)

    def follow(self, features: Tensor, rows: Tensor) -> None:
        for v, memory in enumerate(self.memory):
            view = features[:, v]
            chosen = hardest(memory, view, rows) if self.hard else slice(None)
            ema_rows(memory, view[chosen], rows[chosen], self.momentum)
