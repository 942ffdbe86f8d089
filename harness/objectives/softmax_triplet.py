"""A classifier over the clusters, and a triplet loss: what came before memories."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.errors import ConfigError, TrainingError
from harness.interfaces import Objective
from harness.objectives.classification import soft_triplet
from harness.objectives.memory import centroids
from harness.objectives.views import view_cross_entropies, view_logits, view_weights


class SoftmaxTriplet(Objective):
    """L = Σ_v w_v [CE_ε(x_v W_vᵀ, y) + λ L_tri(x_v)], label-smoothed softmax and soft triplet.

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
    """

    classifier: nn.Parameter
    max_clusters: int

    def __init__(
        self,
        smoothing: float = 0.1,
        margin: float = 0.0,
        triplet_weight: float = 1.0,
        part_weight: float = 0.0,
        max_clusters: int = 3000,
    ) -> None:
        super().__init__()
        for name, share in (
            ("smoothing", smoothing), ("margin", margin), ("part_weight", part_weight),
        ):  # fmt: skip
            if not 0 <= share <= 1:
                raise ConfigError(f"objective.{name}={share} must lie in [0, 1].")
        if triplet_weight < 0:
            raise ConfigError(f"objective.triplet_weight={triplet_weight} must not be negative.")
        if max_clusters < 1:
            raise ConfigError(f"objective.max_clusters={max_clusters} must be 1 or more.")
        self.smoothing = smoothing
        self.margin = margin
        self.triplet_weight = triplet_weight
        self.part_weight = part_weight
        self.max_clusters = max_clusters
        self.clusters = 0
        #: (2, V) cross-entropies and triplet losses of the last batch, before weighing
        self.terms = torch.empty(0)

    def prepare(self, views: int, dim: int, images: int) -> None:
        self.classifier = nn.Parameter(torch.zeros(views, self.max_clusters, dim))

    @torch.no_grad()
    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        """Set the classifier's first K rows to the cluster means.

        Raises:
            TrainingError: more clusters than rows.
        """
        means = centroids(features, labels)
        self.clusters = means.shape[1]
        if self.clusters > self.max_clusters:
            raise TrainingError(
                f"{self.clusters} clusters are too many for a classifier of {self.max_clusters}.",
                f"Set objective.max_clusters={2 * self.clusters}, or make fewer clusters "
                "(a larger labeler.eps).",
            )
        self.classifier[:, : self.clusters] = means.to(self.classifier)

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if self.classifier.device != embeddings.device:
            self.to(embeddings.device)
        logits = view_logits(embeddings, self.classifier[:, : self.clusters])
        softmax = view_cross_entropies(logits, labels, self.smoothing)
        views = [soft_triplet(view, labels, self.margin) for view in embeddings.unbind(dim=1)]
        triplet = torch.stack(views)
        self.terms = torch.stack([softmax, triplet]).detach()
        weights = view_weights(len(views), self.part_weight, softmax)
        return (weights * (softmax + self.triplet_weight * triplet)).sum()
