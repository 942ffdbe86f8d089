"""ICE's loss on labels: each image against the centres of clusters, and of their cameras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.components.objectives.instance_consistency import cluster_contrast
from harness.components.objectives.memory import cluster_means
from harness.components.objectives.proxies import Proxies, camera_proxies, ice_camera
from harness.components.objectives.views import view_weights
from harness.core.errors import ConfigError, HarnessError
from harness.core.interfaces import Objective


class ProxyContrast(Objective):
    """L = CE_ε(x Cᵀ/τ, y) + λ_cam L_cam, C the cluster means of the epoch, which stay as they are.

    Chen, Lagadec, Brémond, *ICE: Inter-instance Contrastive Encoding for Unsupervised Person
    Re-identification*, ICCV 2021: its camera-agnostic proxy loss, and with λ_cam = 1 its
    camera-aware one (`ice_camera`). Neither x nor C is normalised in the first term. With part
    views the loss is weighed as ClusterMemory's; the method as published has none.

    Args:
        temperature: τ. smoothing: ε of the label smoothing.
        camera_weight: λ_cam; 0 leaves cameras out altogether.
        camera_temperature: τ of the camera loss.
        part_weight: λ2, the weight of each part view.
    """

    def __init__(
        self,
        temperature: float = 0.5,
        smoothing: float = 0.1,
        camera_weight: float = 0.0,
        camera_temperature: float = 0.07,
        part_weight: float = 0.0,
    ) -> None:
        super().__init__()
        for name, above in (
            ("temperature", temperature), ("camera_temperature", camera_temperature),
        ):  # fmt: skip
            if above <= 0:
                raise ConfigError(f"objective.{name}={above} must be above 0.")
        for name, share in (("smoothing", smoothing), ("part_weight", part_weight)):
            if not 0 <= share <= 1:
                raise ConfigError(f"objective.{name}={share} must lie in [0, 1].")
        if camera_weight < 0:
            raise ConfigError(f"objective.camera_weight={camera_weight} must not be negative.")
        self.temperature = temperature
        self.smoothing = smoothing
        self.camera_weight = camera_weight
        self.camera_temperature = camera_temperature
        self.part_weight = part_weight
        self.uses_cameras = self.needs_cameras({"camera_weight": camera_weight})
        #: (V, K, D)
        self.centres = torch.empty(0)
        #: of features (V, P, D)
        self.proxies: Proxies | None = None
        #: (2, V) cluster and camera losses of the last batch, before weighing
        self.terms = torch.empty(0)

    @classmethod
    def needs_cameras(cls, options: Mapping[str, Any]) -> bool:
        return float(options.get("camera_weight", 0.0)) > 0

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        self.centres = cluster_means(features, labels)
        self.proxies = camera_proxies(features, labels, cameras) if self.uses_cameras else None

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if not self.centres.numel():
            raise HarnessError("ProxyContrast has no centres.", "Call start_epoch first.")
        self.centres = self.centres.to(embeddings.device)
        views = list(zip(embeddings.unbind(dim=1), self.centres, strict=True))
        clusters = torch.stack(
            [cluster_contrast(x, c, labels, self.temperature, self.smoothing) for x, c in views]
        )
        camera = torch.zeros_like(clusters)
        if self.proxies is not None:
            proxies = self.proxies = self.proxies.to(embeddings.device)
            cameras = proxies.cameras[proxies.of_image[indices]]
            own = [replace(proxies, features=rows) for rows in proxies.features]
            terms = [
                ice_camera(x, labels, cameras, p, self.camera_temperature)
                for (x, _), p in zip(views, own, strict=True)
            ]
            camera = torch.stack(terms)
        self.terms = torch.stack([clusters, camera]).detach()
        weights = view_weights(len(views), self.part_weight, clusters)
        return (weights * (clusters + self.camera_weight * camera)).sum()
