"""ICE's loss on labels: each image against the centers of clusters, and of their cameras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness.components.objectives.instance_consistency import cluster_contrast
from harness.components.objectives.memory import cluster_means
from harness.components.objectives.options import CameraWeight, PartWeight, Smoothing, Temperature
from harness.components.objectives.proxies import Proxies, camera_proxies, ice_camera
from harness.components.objectives.views import weigh_views
from harness.core.errors import HarnessError
from harness.core.interfaces import Objective


@dataclass(eq=False, repr=False)
class ProxyContrast(Objective):
    """L = CE_ε(x Cᵀ/τ, y) + λ_cam L_cam, with the cluster means C of the epoch, which stay fixed.

    Chen, Lagadec, Brémond, *ICE: Inter-instance Contrastive Encoding for Unsupervised Person
    Re-identification*, ICCV 2021: its camera-agnostic proxy loss, and with λ_cam = 1 its
    camera-aware one (`ice_camera`). Neither x nor C is normalized in the first term. Part views,
    which the published method does not have, are weighted as in ClusterMemory.
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
            pairs = zip(embeddings.unbind(dim=1), own, strict=True)
            temperature = self.camera_temperature
            camera = torch.stack([ice_camera(x, labels, cameras, p, temperature) for x, p in pairs])
        self.terms = torch.stack([clusters, camera]).detach()
        return weigh_views(clusters + self.camera_weight * camera, self.part_weight)
