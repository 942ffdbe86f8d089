"""A classifier over the clusters, and a triplet loss: what came before memories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.components.objectives.classification import soft_triplet
from harness.components.objectives.memory import centroids
from harness.components.objectives.views import view_cross_entropies, view_logits, view_weights
from harness.core.errors import ConfigError, TrainingError
from harness.core.interfaces import Objective


class SoftmaxTriplet(Objective):
    """L = Σ_v w_v [ρ CE_ε(x_v W_vᵀ, y) + λ L_tri(x_v)], label-smoothed softmax and soft triplet.

    The hard-label losses of MMT (Ge et al., ICLR 2020), which alone are the "strong
    baseline" of that family of code. Both take the embeddings as the backbone gives them, not
    normalised; the published code takes the triplets before the batch norm of the neck.

    Clusters are others in each epoch, so the first K rows of W are set to the normalised cluster
    means when it starts (as PPLR and MMT do), and the others take no part. There is a fixed number
    of rows because the optimiser, whose moments live on, is made once. W is no memory: it follows
    the gradient, in warm-up epochs too.

    Args:
        smoothing: ε, the share of the target that all clusters divide.
        margin: m of the soft triplet, whose target is (m, 1 − m).
        triplet_weight: λ.
        part_weight: λ2; w = (1 − λ2, λ2, …).
        max_clusters: rows of W; PPLR has 3000.
        softmax_weight: ρ.
        before_neck: take the triplet loss of the global view alone, before its neck. The backbone's
            last view has to be `pooled` then, which takes no part otherwise.
    """

    has_classifier = True
    classifier: nn.Parameter
    max_clusters: int

    def __init__(
        self,
        smoothing: float = 0.1,
        margin: float = 0.0,
        triplet_weight: float = 1.0,
        part_weight: float = 0.0,
        max_clusters: int = 3000,
        softmax_weight: float = 1.0,
        before_neck: bool = False,
    ) -> None:
        super().__init__()
        for name, share in (
            ("smoothing", smoothing), ("margin", margin), ("part_weight", part_weight),
        ):  # fmt: skip
            if not 0 <= share <= 1:
                raise ConfigError(f"objective.{name}={share} must lie in [0, 1].")
        for name, weight in (("triplet", triplet_weight), ("softmax", softmax_weight)):
            if weight < 0:
                raise ConfigError(f"objective.{name}_weight={weight} must not be negative.")
        if max_clusters < 1:
            raise ConfigError(f"objective.max_clusters={max_clusters} must be 1 or more.")
        self.smoothing = smoothing
        self.margin = margin
        self.triplet_weight = triplet_weight
        self.part_weight = part_weight
        self.max_clusters = max_clusters
        self.softmax_weight = softmax_weight
        self.before_neck = before_neck
        self.clusters = 0
        #: (2, V) cross-entropies and triplet losses of the last batch, before weighing
        self.terms = torch.empty(0)

    @classmethod
    def takes_pooled(cls, options: Mapping[str, Any]) -> bool:
        return bool(options.get("before_neck", False))

    def prepare(self, views: int, dim: int, images: int) -> None:
        classified = views - 1 if self.before_neck else views
        self.classifier = nn.Parameter(torch.zeros(classified, self.max_clusters, dim))

    @torch.no_grad()
    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        """Set the classifier's first K rows to the cluster means.

        Raises:
            TrainingError: more clusters than rows.
        """
        means = centroids(features[:, : len(self.classifier)], labels)
        self.clusters = means.shape[1]
        if self.clusters > self.max_clusters:
            raise TrainingError(
                f"{self.clusters} clusters are too many for a classifier of {self.max_clusters}.",
                f"Set objective.max_clusters={2 * self.clusters}, or make fewer clusters "
                "(a larger labeler.eps).",
            )
        self.classifier[:, : self.clusters] = means.to(self.classifier)

    def logits(self, embeddings: Tensor) -> Tensor:
        if self.classifier.device != embeddings.device:
            self.to(embeddings.device)
        classified = embeddings[:, : len(self.classifier)]
        return view_logits(classified, self.classifier[:, : self.clusters])

    def metric_view(self, embeddings: Tensor) -> Tensor:
        return embeddings[:, -1 if self.before_neck else 0]

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        softmax = view_cross_entropies(self.logits(embeddings), labels, self.smoothing)
        if self.before_neck:
            triplet = torch.zeros_like(softmax)
            triplet[0] = soft_triplet(self.metric_view(embeddings), labels, self.margin)
        else:
            views = [soft_triplet(view, labels, self.margin) for view in embeddings.unbind(dim=1)]
            triplet = torch.stack(views)
        self.terms = torch.stack([softmax, triplet]).detach()
        weights = view_weights(len(softmax), self.part_weight, softmax)
        return (weights * (self.softmax_weight * softmax + self.triplet_weight * triplet)).sum()
