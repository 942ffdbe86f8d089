"""PPLR's loss: parts refine the label of the whole, and are smoothed where they disagree with it.

Cho et al., *Part-based Pseudo Label Refinement for Unsupervised Person Re-identification*, CVPR
2022. V = 1 + P views: the global one and P parts, each with a classifier of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.objectives.classification import soft_triplet
from harness.components.objectives.cross_agreement import cross_agreement
from harness.components.objectives.memory import centroids
from harness.components.objectives.proxies import Proxies, camera_proxies, cross_camera
from harness.core.errors import ConfigError, HarnessError, TrainingError
from harness.core.interfaces import Objective


def refined_global(logits: Tensor, labels: Tensor, agreement: Tensor, beta: float) -> Tensor:
    """Part-guided label refinement (PGLR): −mean Σ t̃ log softmax(global logits).

    t̃ = β one-hot(y) + (1 − β) Σ_p softmax(agreement)_p softmax(part logits_p), without gradient.

    Args:
        logits: (V, B, K). labels: (B,). agreement: (B, P) of the batch's images.
    """
    whole, parts = logits[0], logits[1:].detach()
    votes = torch.einsum("bp,pbk->bk", agreement.softmax(dim=1), parts.softmax(dim=-1))
    target = beta * F.one_hot(labels, whole.shape[1]).to(whole.dtype) + (1 - beta) * votes
    return F.cross_entropy(whole, target)


def smoothed_by_agreement(logits: Tensor, labels: Tensor, agreement: Tensor) -> Tensor:
    """Agreement-aware label smoothing (AALS): mean of c CE + (1 − c) KL(uniform ‖ softmax), (…).

    Args:
        logits: (…, B, K). labels: (B,). agreement: (…, B), the scores c.
    """
    log_p = logits.log_softmax(dim=-1)
    ce = -log_p.gather(-1, labels.expand(log_p.shape[:-1])[..., None])[..., 0]
    divergence = -math.log(logits.shape[-1]) - log_p.mean(dim=-1)
    return (agreement * ce + (1 - agreement) * divergence).mean(dim=-1)


def smoothed(logits: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """CE with the share ε of each target spread over all K labels: (V, B, K), (B,) → (V,)."""
    views = len(logits)
    flat = F.cross_entropy(
        logits.flatten(0, 1), labels.repeat(views), label_smoothing=epsilon, reduction="none"
    )
    return flat.view(views, -1).mean(dim=1)


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


class PartRefinement(Objective):
    """PPLR: L = PGLR + soft triplet + mean over parts of AALS [+ λ_cam camera].

    Until `aals_epoch` the parts have label-smoothed CE in place of AALS. The camera loss (PPLR-CAM)
    is that of the global view and the mean of the parts'. Triplets are of the global embedding, not
    normalised. At each epoch's start agreement scores are found anew, and the first K rows of each
    view's classifier become the centroids; the optimiser's state lives on.

    Args:
        beta: β, the weight of the pseudo-label in the refined one.
        neighbours: k of the agreement score.
        aals_epoch: epochs of the stage, warm-up ones counted, before AALS.
        smoothing: ε of the label smoothing before that.
        max_clusters: rows of each classifier, or as many as there are images if these are fewer.
        camera_weight: λ_cam; 0 leaves cameras out altogether.
        camera_temperature: τ of the camera loss.
    """

    min_views = 2
    max_clusters: int

    def __init__(
        self,
        beta: float = 0.5,
        neighbours: int = 20,
        aals_epoch: int = 5,
        smoothing: float = 0.1,
        max_clusters: int = 3000,
        camera_weight: float = 0.0,
        camera_temperature: float = 0.07,
    ) -> None:
        super().__init__()
        for name, share in (("beta", beta), ("smoothing", smoothing)):
            if not 0 <= share <= 1:
                raise ConfigError(f"objective.{name}={share} must lie in [0, 1].")
        for name, count in (("neighbours", neighbours), ("max_clusters", max_clusters)):
            if count < 1:
                raise ConfigError(f"objective.{name}={count} must be 1 or more.")
        if aals_epoch < 0:
            raise ConfigError(f"objective.aals_epoch={aals_epoch} must not be negative.")
        if camera_weight < 0:
            raise ConfigError(f"objective.camera_weight={camera_weight} must not be negative.")
        if camera_temperature <= 0:
            raise ConfigError(f"objective.camera_temperature={camera_temperature} must be above 0.")
        self.beta = beta
        self.neighbours = neighbours
        self.aals_epoch = aals_epoch
        self.smoothing = smoothing
        self.max_clusters = max_clusters
        self.camera_weight = camera_weight
        self.camera_temperature = camera_temperature
        self.uses_cameras = self.needs_cameras({"camera_weight": camera_weight})
        #: epochs begun; a buffer, so that a resumed run counts on
        self.epochs_begun: Tensor
        self.register_buffer("epochs_begun", torch.zeros((), dtype=torch.int64))
        #: (V, max_clusters, D), made by `prepare`
        self.classifiers: nn.Parameter | None = None
        #: K of this epoch, its agreement scores (N, P), whether it has AALS, and its proxies
        self.clusters = 0
        self.agreement = torch.empty(0)
        self.trusts_agreement = False
        self.proxies: Proxies | None = None

    @classmethod
    def needs_cameras(cls, options: Mapping[str, Any]) -> bool:
        return float(options.get("camera_weight", 0.0)) > 0

    def prepare(self, views: int, dim: int, images: int) -> None:
        if views < self.min_views:
            raise ConfigError(
                "PartRefinement needs part views, but the backbone has the global one alone.",
                "Set backbone.views=[global,upper,lower].",
            )
        rows = min(self.max_clusters, images)
        self.classifiers = nn.Parameter(torch.zeros(views, rows, dim))

    @torch.no_grad()
    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        if self.classifiers is None:
            raise HarnessError("PartRefinement has no classifiers.", "Call prepare first.")
        rows = centroids(features, labels)
        self.clusters = rows.shape[1]
        if self.clusters > self.classifiers.shape[1]:
            raise TrainingError(
                f"{self.clusters} clusters are more than objective.max_clusters="
                f"{self.max_clusters}.",
                "Raise objective.max_clusters and start afresh, or raise labeler.eps.",
            )
        self.classifiers[:, : self.clusters] = rows.to(self.classifiers.device)
        self.agreement = cross_agreement(features, self.neighbours).to(labels.device)
        self.proxies = camera_proxies(features, labels, cameras) if self.uses_cameras else None
        self.trusts_agreement = int(self.epochs_begun) >= self.aals_epoch
        self.epochs_begun += 1

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if self.classifiers is None:
            raise HarnessError("PartRefinement has no classifiers.", "Call prepare first.")
        logits = torch.einsum("bvd,vkd->vbk", embeddings, self.classifiers[:, : self.clusters])
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
        """The terms of a batch.

        Args:
            embeddings: (B, V, D). logits: (V, B, K). labels: (B,). agreement: (B, P).
            cameras: (B,), if the camera loss is wanted.
        """
        if self.trusts_agreement:
            parts = smoothed_by_agreement(logits[1:], labels, agreement.T)
        else:
            parts = smoothed(logits[1:], labels, self.smoothing)
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
