"""SpCL's loss: a memory of every image, compared label by label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import MemoryObjective, centroids, ema_views, label_means
from harness.components.objectives.options import Momentum, PartWeight, Temperature
from harness.components.objectives.views import view_logits, weigh_views

#: in the published code both in the denominator and in the logarithm
EPSILON = 1e-6


@dataclass(eq=False, repr=False)
class HybridMemory(MemoryObjective):
    """L = −log(p + ε), p = exp(S_y) / (Σ_c exp(S_c) + ε), S_c = mean over rows of c of x·m / τ.

    With reduce="sum", as in RTMem, exp(S_c) is the sum over rows of c of exp(x·m / τ).

    Ge et al., *Self-paced Contrastive Learning with Hybrid Memory for Domain Adaptive Object
    Re-ID*, NeurIPS 2020, with the constants ε of its code. x is the normalized embedding; a row m_i
    is the feature of one image and follows it, m_i ← norm(μ m_i + (1 − μ) x). With several views
    each has its own memory, and the loss is Σ_v w_v L_v with w = (1 − λ2, λ2, …).

    The memory holds all N images. The features of the first epoch fill it, and it lives through the
    run: later labels are made from the memory itself (`features`), as published, so no features are
    extracted after the first epoch. Warm-up epochs leave it as it is, and the next epoch fills it
    anew. An outlier (−1) becomes a label of its own: a negative for all other images, although the
    sampler never draws it.

    With a labeled source of C classes, their centroids are the first C rows and labels 0 … C−1.
    They too follow each image of their class, all labels share one denominator, and the loss is the
    sum of the means over source and target images.
    """

    temperature: Temperature = 0.05
    momentum: Momentum = 0.2
    part_weight: PartWeight = 0.0
    reduce: Annotated[
        Literal["mean", "sum"],
        Field(description="over a label's rows: mean of x·m / τ, or sum of exp(x·m / τ)"),
    ] = "mean"

    accepts_source = True

    def __post_init__(self) -> None:
        super().__init__()
        #: (C + N,) the epoch's labels, outliers numbered after the clusters
        self.labels = torch.empty(0, dtype=torch.int64)
        #: (L,) whether any image has this label
        self.used = torch.empty(0, dtype=torch.bool)

    def prepare(self, views: int, dim: int, images: int) -> None:
        #: (C + N, V, D), rows of unit length
        self.memory: Tensor
        self.register_buffer("memory", torch.zeros(self.source_classes + images, views, dim))
        #: whether the memory has taken in a batch
        self.begun: Tensor
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def features(self) -> Tensor | None:
        """The memory of the images, once it has taken in a batch."""
        return self.memory[self.source_classes :] if bool(self.begun) else None

    def start_source(self, features: Tensor, identities: Tensor) -> None:
        self.memory[: self.source_classes] = centroids(features, identities).transpose(0, 1)

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        if not self.begun:
            self.memory[self.source_classes :] = features
        self.set_labels(labels)

    def set_labels(self, labels: Tensor) -> None:
        """Set the labels (N,) of the images; each outlier gets the next free number."""
        classes = torch.arange(self.source_classes, device=labels.device)
        labels = torch.cat([classes, torch.where(labels < 0, labels, labels + self.source_classes)])
        alone = (labels < 0).nonzero().flatten()
        first = int(labels.max()) + 1
        fresh = torch.arange(first, first + len(alone), device=labels.device)
        self.labels = labels.index_copy(0, alone, fresh)
        self.used = torch.bincount(self.labels) > 0

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if self.memory.device != embeddings.device:
            self.to(embeddings.device)
            self.labels, self.used = (t.to(embeddings.device) for t in (self.labels, self.used))
        rows = torch.where(indices < 0, labels, indices + self.source_classes)
        return self.contrast(F.normalize(embeddings, dim=-1), rows)

    def contrast(self, features: Tensor, rows: Tensor) -> Tensor:
        """The loss of features (B, V, D) of unit length, as they are, of the rows (B,)."""
        targets = self.labels[rows]
        if self.reduce == "sum":
            scores = view_logits(features, self.memory.transpose(0, 1)) / self.temperature
            own = scores.masked_fill(self.labels != targets[:, None], -math.inf).logsumexp(dim=-1)
        else:
            # the mean of inner products is the inner product with the mean
            means = label_means(self.memory, self.labels, len(self.used))
            scores = view_logits(features, means) / self.temperature
            scores = scores.masked_fill(~self.used, -math.inf)
            own = scores.gather(-1, targets.expand(len(scores), -1)[..., None]).squeeze(-1)
        # exp(S_y) / (Σ_c exp(S_c) + ε) without powers that could overflow
        total = scores.logsumexp(dim=-1)
        total = torch.logaddexp(total, torch.full_like(total, math.log(EPSILON)))
        share = (own - total).exp()
        self._batch = (features.detach(), rows)
        losses = -(share + EPSILON).log()
        if not self.source_classes:
            return weigh_views(losses.mean(dim=1), self.part_weight)
        of_source = rows < self.source_classes
        domains = torch.stack([of_source, ~of_source]).to(losses.dtype)
        domain_means = (losses @ domains.T) / domains.sum(dim=1).clamp(min=1)
        return weigh_views(domain_means.sum(dim=1), self.part_weight)

    def follow(self, features: Tensor, rows: Tensor) -> None:
        ema_views(self.memory.transpose(0, 1), features, rows, self.momentum)
        self.begun.fill_(True)
