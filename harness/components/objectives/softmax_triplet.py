"""Softmax over the clusters with a triplet loss: the "strong baseline" without a memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from harness.components.objectives.classification import hard_triplet, set_rows, soft_triplet
from harness.components.objectives.options import ClassifierRows, PartWeight, Smoothing
from harness.components.objectives.views import view_cross_entropies, view_logits, weigh_views
from harness.core.interfaces import Objective


@dataclass(eq=False, repr=False)
class SoftmaxTriplet(Objective):
    """L = Σ_v w_v [ρ CE_ε(x_v W_vᵀ, y) + λ L_tri(x_v)], label-smoothed softmax and soft triplet.

    The hard-label losses of MMT (Ge et al., ICLR 2020), which alone are the "strong baseline" of
    that family of code. Both take embeddings as the backbone gives them, not normalized; the
    published code takes the triplets before the batch norm of the neck (`before_neck`).

    Batch-hard triplets have a target (m, 1 − m) of their two distances (soft), or
    max(0, d_ap − d_an + m) (hard). The classes of a labeled source are the first rows of W; they
    are set once, and both losses are over source and target images together.

    Clusters change each epoch, so at its start the first K rows of W are set to the normalized
    cluster means (as in PPLR and MMT), and the other rows are unused. The number of rows is fixed
    because the optimizer, whose moments persist, is made once. W is trained by gradient, in warm-up
    epochs too.
    """

    smoothing: Smoothing = 0.1
    margin: Annotated[
        float, Field(ge=0, le=1, description="m, the soft triplet's target is (m, 1 − m)")
    ] = 0.0
    triplet_weight: Annotated[NonNegativeFloat, Field(description="λ, of the triplet loss")] = 1.0
    part_weight: PartWeight = 0.0
    max_clusters: ClassifierRows = 3000
    softmax_weight: Annotated[NonNegativeFloat, Field(description="ρ, of the softmax")] = 1.0
    before_neck: Annotated[
        bool, Field(description="triplets of the global view before its neck (`pooled`) only")
    ] = False
    triplet: Annotated[
        Literal["soft", "hard"], Field(description="cross-entropy of distances, or hinge at m")
    ] = "soft"
    keep_rows: Annotated[
        bool, Field(description="set W in the first epoch only: for labels that never change")
    ] = False

    has_classifier = True
    accepts_source = True

    def __post_init__(self) -> None:
        super().__init__()
        self.classifier: nn.Parameter
        #: whether an epoch has begun; a buffer, so that checkpoints keep it
        self.begun: Tensor
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        self.clusters = 0
        #: (2, V) cross-entropies and triplet losses of the last batch, before weighting
        self.terms = torch.empty(0)

    @classmethod
    def needs_pooled(cls, options: Mapping[str, Any]) -> bool:
        return bool(options.get("before_neck", False))

    def prepare(self, views: int, dim: int, images: int) -> None:
        classified = views - 1 if self.before_neck else views
        rows = self.source_classes + self.max_clusters
        self.classifier = nn.Parameter(torch.zeros(classified, rows, dim))

    def start_source(self, features: Tensor, identities: Tensor) -> None:
        set_rows(self.classifier, features[:, : len(self.classifier)], identities)

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        if self.keep_rows and bool(self.begun):
            self.clusters = int(labels.max()) + 1
        else:
            own = self.classifier[:, self.source_classes :]
            self.clusters = set_rows(own, features[:, : len(self.classifier)], labels)
        self.clusters += self.source_classes
        self.begun.fill_(True)

    @property
    def reads_features(self) -> bool:  # type: ignore[override]  # a plain attribute elsewhere
        return not (self.keep_rows and bool(self.begun))

    def logits(self, embeddings: Tensor) -> Tensor:
        if self.classifier.device != embeddings.device:
            self.to(embeddings.device)
        classified = embeddings[:, : len(self.classifier)]
        return view_logits(classified, self.classifier[:, : self.clusters])

    def metric_view(self, embeddings: Tensor) -> Tensor:
        return embeddings[:, -1 if self.before_neck else 0]

    def triplets(self, features: Tensor, labels: Tensor) -> Tensor:
        """The triplet loss of one view's features (B, D)."""
        loss = hard_triplet if self.triplet == "hard" else soft_triplet
        return loss(features, labels, self.margin)

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        softmax = view_cross_entropies(self.logits(embeddings), labels, self.smoothing)
        if self.before_neck:
            triplet = torch.zeros_like(softmax)
            triplet[0] = self.triplets(self.metric_view(embeddings), labels)
        else:
            views = [self.triplets(view, labels) for view in embeddings.unbind(dim=1)]
            triplet = torch.stack(views)
        self.terms = torch.stack([softmax, triplet]).detach()
        loss = self.softmax_weight * softmax + self.triplet_weight * triplet
        return weigh_views(loss, self.part_weight)
