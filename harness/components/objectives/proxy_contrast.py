"""ICE's losses: a student against cluster centers and against a mean teacher's instances.

Chen, Lagadec, Brémond, *ICE: Inter-instance Contrastive Encoding for Unsupervised Person
Re-identification*, ICCV 2021. x is the student's embedding of one augmentation of an image, y the
mean teacher's of another, u the mean teacher's of the image without augmentation; none is
normalized. The camera term is in `proxies` (`ice_camera`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import cluster_means
from harness.components.objectives.options import CameraWeight, PartWeight, Smoothing, Temperature
from harness.components.objectives.proxies import Proxies, camera_proxies, ice_camera
from harness.components.objectives.views import weigh_views
from harness.core.errors import HarnessError
from harness.core.interfaces import Objective


def cluster_contrast(
    x: Tensor, centers: Tensor, labels: Tensor, temperature: float = 0.5, epsilon: float = 0.1
) -> Tensor:
    """Label-smoothed CE of x Cᵀ/τ; as published, neither x (B, D) nor C is normalized.

    The centers C (K, D) are `cluster_means` of the normalized features.
    """
    return F.cross_entropy(x @ centers.T / temperature, labels, label_smoothing=epsilon)


def hard_instance(x: Tensor, y: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Mean of −log [e^p / (e^p + Σ_n e^n)], p = min over the same label.

    p and n are cosine similarities of x (B, D) to y (B, D) over τ; an image's own y is among the
    positives, and all y of other labels are negatives. Labels (B,) may occur any number of times;
    where they occur equally often, as the published code requires, the loss is the same.
    """
    logits = F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).T / temperature
    same = labels == labels[:, None]
    positive = logits.masked_fill(~same, torch.inf).amin(dim=1, keepdim=True)
    others = logits.masked_fill(same, -torch.inf)
    return (torch.logsumexp(torch.cat([positive, others], dim=1), dim=1) - positive[:, 0]).mean()


def consistency(
    x: Tensor, y: Tensor, u: Tensor, temperature: float = 0.4, factor: float = 10.0
) -> Tensor:
    """factor × mean KL( softmax(û ûᵀ/T) ‖ softmax(x̂ ŷᵀ/T) ), of x, y, u (B, D), normalized."""
    x, y, u = (F.normalize(z, dim=-1) for z in (x, y, u))
    target = F.log_softmax(u @ u.T / temperature, dim=1)
    ours = F.log_softmax(x @ y.T / temperature, dim=1)
    return factor * F.kl_div(ours, target, reduction="batchmean", log_target=True)


@dataclass(eq=False, repr=False)
class ProxyContrast(Objective):
    """L = CE_ε(x Cᵀ/τ, y) + λ_cam L_cam, with the cluster means C of the epoch, which stay fixed.

    ICE's camera-agnostic proxy loss, and with λ_cam = 1 its camera-aware one (`ice_camera`).
    Neither x nor C is normalized in the first term. Part views, which the published method does not
    have, are weighted as in ClusterMemory.
    """

    temperature: Temperature = 0.5
    smoothing: Smoothing = 0.1
    camera_weight: CameraWeight = 0.0
    camera_temperature: Temperature = 0.07
    part_weight: PartWeight = 0.0

    def __post_init__(self) -> None:
        super().__init__()
        self.uses_cameras = self.camera_weight > 0
        #: (V, K, D)
        self.centers = torch.empty(0)
        #: of features (V, P, D)
        self.proxies: Proxies | None = None
        #: (2, V) cluster and camera losses of the last batch, before weighting
        self.terms = torch.empty(0)

    @classmethod
    def needs_cameras(cls, options: Mapping[str, Any]) -> bool:
        return float(options.get("camera_weight", 0.0)) > 0

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        self.centers = cluster_means(features, labels)
        self.proxies = camera_proxies(features, labels, cameras) if self.uses_cameras else None

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if not self.centers.numel():
            raise HarnessError("ProxyContrast has no cluster centers.", "Call start_epoch first.")
        self.centers = self.centers.to(embeddings.device)
        views = zip(embeddings.unbind(dim=1), self.centers, strict=True)
        clusters = torch.stack(
            [cluster_contrast(x, c, labels, self.temperature, self.smoothing) for x, c in views]
        )
        camera = torch.zeros_like(clusters)
        if self.proxies is not None:
            proxies = self.proxies = self.proxies.to(embeddings.device)
            cameras = proxies.cameras[proxies.of_image[indices]]
            own = [replace(proxies, features=rows) for rows in proxies.features]
            pairs, t = zip(embeddings.unbind(dim=1), own, strict=True), self.camera_temperature
            camera = torch.stack([ice_camera(x, labels, cameras, p, t) for x, p in pairs])
        self.terms = torch.stack([clusters, camera]).detach()
        return weigh_views(clusters + self.camera_weight * camera, self.part_weight)
