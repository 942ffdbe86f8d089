"""PPLR's loss: part views refine the global label, and their labels are smoothed by agreement.

Cho et al., *Part-based Pseudo Label Refinement for Unsupervised Person Re-identification*, CVPR
2022. V = 1 + P views: the global one and P parts, each with a classifier of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.labelers.neighbours import nearest
from harness.components.objectives import options as shared
from harness.components.objectives.classification import set_rows, soft_triplet
from harness.components.objectives.proxies import Proxies, camera_proxies, cross_camera
from harness.components.objectives.views import view_cross_entropies, view_logits
from harness.core.errors import ConfigError, HarnessError
from harness.core.interfaces import Objective


def refined_global(logits: Tensor, labels: Tensor, agreement: Tensor, beta: float) -> Tensor:
    """Part-guided label refinement (PGLR): −mean Σ t̃ log softmax(global logits).

    t̃ = β one-hot(y) + (1 − β) Σ_p softmax(agreement)_p softmax(part logits_p), without gradient.

    Logits (V, B, K), labels (B,), agreement (B, P) of the batch's images.
    """
    whole, parts = logits[0], logits[1:].detach()
    votes = torch.einsum("bp,pbk->bk", agreement.softmax(dim=1), parts.softmax(dim=-1))
    target = beta * F.one_hot(labels, whole.shape[1]).to(whole.dtype) + (1 - beta) * votes
    return F.cross_entropy(whole, target)


def smoothed_by_agreement(logits: Tensor, labels: Tensor, agreement: Tensor) -> Tensor:
    """Agreement-aware label smoothing (AALS): mean of c CE + (1 − c) KL(uniform ‖ softmax), (…).

    Logits (…, B, K), labels (B,), agreement (…, B): the scores c.
    """
    log_p = logits.log_softmax(dim=-1)
    ce = -log_p.gather(-1, labels.expand(log_p.shape[:-1])[..., None])[..., 0]
    divergence = -math.log(logits.shape[-1]) - log_p.mean(dim=-1)
    return (agreement * ce + (1 - agreement) * divergence).mean(dim=-1)


@torch.no_grad()
def cross_agreement(features: Tensor, k: int = 20) -> Tensor:
    """Agreement score of each image i and part p, |A ∩ B| / |A ∪ B|: (N, V − 1) float32 in [0, 1].

    A and B are the k nearest images of i by the global view and by part p, i itself left out.
    Features (N, V, D) are L2-normalized per view, view 0 is the global one.

    Raises:
        HarnessError: fewer than two images.
    """
    if len(features) < 2:
        raise HarnessError("A single image has no neighbors.", "Use more images.")
    whole, *parts = (nearest(view, k + 1)[:, 1:] for view in features.unbind(dim=1))
    scores = features.new_empty(len(features), len(parts))
    for p, part in enumerate(parts):
        both = torch.cat([whole, part], dim=1).sort(dim=1).values
        common = (both[:, 1:] == both[:, :-1]).sum(dim=1)  # an image occurs once per list
        scores[:, p] = common.float() / (both.shape[1] - common)
    return scores


@dataclass(frozen=True)
class Terms:
    """The parts of the loss, scalars; `camera` is 0 where cameras are not used."""

    refined: Tensor
    triplet: Tensor
    parts: Tensor
    camera: Tensor

    def total(self, camera_weight: float) -> Tensor:
        """PGLR + triplet + parts + λ_cam camera."""
        return self.refined + self.triplet + self.parts + camera_weight * self.camera


@dataclass(eq=False, repr=False)
class PartRefinement(Objective):
    """PPLR: L = PGLR + soft triplet + mean over parts of AALS [+ λ_cam camera].

    Until `aals_epoch` the parts have label-smoothed CE in place of AALS. The camera loss (PPLR-CAM)
    is that of the global view plus the mean of the parts'. Triplets are of the global embedding,
    not normalized. When an epoch starts, agreement scores are computed anew and the first K rows of
    each view's classifier are set to the centroids; the optimizer's state lives on.
    """

    beta: Annotated[float, Field(ge=0, le=1, description="β, share of the pseudo-label")] = 0.5
    neighbours: Annotated[PositiveInt, Field(description="k of the agreement score")] = 20
    aals_epoch: Annotated[
        int, Field(ge=0, description="epochs before AALS, warm-up ones included")
    ] = 5
    smoothing: shared.Smoothing = 0.1
    max_clusters: shared.ClassifierRows = 3000
    camera_weight: shared.CameraWeight = 0.0
    camera_temperature: shared.Temperature = 0.07

    min_views = 2

    def __post_init__(self) -> None:
        super().__init__()
        self.uses_cameras = self.camera_weight > 0
        #: epochs begun; a buffer, so that checkpoints keep it
        self.epochs_begun: Tensor
        self.register_buffer("epochs_begun", torch.zeros((), dtype=torch.int64))
        #: (V, rows, D), made by `prepare`; rows: max_clusters, or N if that is less
        self.classifiers: nn.Parameter | None = None
        #: K of this epoch, its agreement scores (N, P), whether it has AALS, and its proxies
        self.clusters = 0
        self.agreement = torch.empty(0)
        self.has_aals = False
        self.proxies: Proxies | None = None

    @classmethod
    def needs_cameras(cls, options: Mapping[str, Any]) -> bool:
        return float(options.get("camera_weight", 0.0)) > 0

    def prepare(self, views: int, dim: int, images: int) -> None:
        if views < self.min_views:
            raise ConfigError(
                "PartRefinement needs part views, but the backbone has the global view only.",
                "Set backbone.views=[global,upper,lower].",
            )
        self.classifiers = nn.Parameter(torch.zeros(views, min(self.max_clusters, images), dim))

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        if self.classifiers is None:
            raise HarnessError("PartRefinement has no classifiers.", "Call prepare first.")
        self.clusters = set_rows(self.classifiers, features, labels)
        self.agreement = cross_agreement(features, self.neighbours).to(labels.device)
        self.proxies = camera_proxies(features, labels, cameras) if self.uses_cameras else None
        self.has_aals = int(self.epochs_begun) >= self.aals_epoch
        self.epochs_begun += 1

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if self.classifiers is None:
            raise HarnessError("PartRefinement has no classifiers.", "Call prepare first.")
        logits = view_logits(embeddings, self.classifiers[:, : self.clusters])
        self.agreement = self.agreement.to(embeddings.device)
        agreement, cameras = self.agreement[indices], None
        if self.proxies is not None:
            self.proxies = self.proxies.to(embeddings.device)
            cameras = self.proxies.cameras[self.proxies.of_image[indices]]
        return self.terms(embeddings, logits, labels, agreement, cameras).total(self.camera_weight)

    def terms(
        self,
        embeddings: Tensor,
        logits: Tensor,
        labels: Tensor,
        agreement: Tensor,
        cameras: Tensor | None = None,
    ) -> Terms:
        """Embeddings (B, V, D), logits (V, B, K), labels and cameras (B,), agreement (B, P)."""
        if self.has_aals:
            parts = smoothed_by_agreement(logits[1:], labels, agreement.T)
        else:
            parts = view_cross_entropies(logits[1:], labels, self.smoothing)
        camera = logits.new_zeros(())
        if cameras is not None and self.proxies is not None:
            views = cross_camera(embeddings, labels, cameras, self.proxies, self.camera_temperature)
            camera = views[0] + views[1:].mean()
        return Terms(
            refined_global(logits, labels, agreement, self.beta),
            soft_triplet(embeddings[:, 0], labels),
            parts.mean(),
            camera,
        )
