"""CAP's loss: each image against the proxies of its camera, later against those of all cameras."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import ema_rows
from harness.components.objectives.proxies import (
    Proxies,
    camera_proxies,
    inter_camera,
    intra_camera,
    sum_of_camera_means,
)
from harness.components.objectives.views import view_weights
from harness.core.errors import ConfigError, HarnessError
from harness.core.interfaces import Objective


class CameraProxies(Objective):
    """L = Σ_c [mean CE within camera c + ½ mean soft-label CE over all cameras' proxies].

    Wang et al., *Camera-aware Proxies for Unsupervised Person Re-Identification*, AAAI 2021:
    the inter-camera half from `inter_epoch` on, sums over the batch's cameras. Proxies are
    rebuilt each epoch; after the gradient the own one follows each image:
    m ← norm(μ m + (1 − μ) f). With part views the loss is weighed as ClusterMemory's.

    Args:
        temperature: τ.
        momentum: μ, the share of the old row that is kept.
        inter_epoch: epochs of the stage, warm-up ones counted, without the inter-camera term.
        part_weight: λ2, the weight of each part view; the method as published has none.
    """

    uses_cameras = True

    def __init__(
        self,
        temperature: float = 0.07,
        momentum: float = 0.2,
        inter_epoch: int = 5,
        part_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ConfigError(f"objective.temperature={temperature} must be above 0.")
        if not 0 <= momentum <= 1:
            raise ConfigError(f"objective.momentum={momentum} must lie in [0, 1].")
        if inter_epoch < 0:
            raise ConfigError(f"objective.inter_epoch={inter_epoch} must not be negative.")
        if not 0 <= part_weight <= 1:
            raise ConfigError(f"objective.part_weight={part_weight} must lie in [0, 1].")
        self.temperature = temperature
        self.momentum = momentum
        self.inter_epoch = inter_epoch
        self.part_weight = part_weight
        #: epochs begun; a buffer, so that a resumed run counts on
        self.epochs_begun: Tensor
        self.register_buffer("epochs_begun", torch.zeros((), dtype=torch.int64))
        #: of features (V, P, D)
        self.proxies: Proxies | None = None
        #: whether this epoch has the inter-camera term
        self.crosses = False
        self._batch: tuple[Tensor, Tensor] | None = None

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        self.proxies = camera_proxies(features, labels, cameras)
        self.crosses = int(self.epochs_begun) >= self.inter_epoch
        self.epochs_begun += 1

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if self.proxies is None:
            raise HarnessError("CameraProxies has no proxies.", "Call start_epoch first.")
        if self.proxies.features.device != embeddings.device:
            self.proxies = self.proxies.to(embeddings.device)
        own = self.proxies.of_image[indices]
        normal = F.normalize(embeddings, dim=-1)
        terms = self.terms(normal, own, self.proxies)
        self._batch = (normal.detach(), own)
        return (view_weights(len(terms), self.part_weight, terms) * terms).sum()

    def terms(self, normal: Tensor, own: Tensor, proxies: Proxies) -> Tensor:
        """Loss of each view (V,): of normalised embeddings (B, V, D) and their proxies (B,)."""
        similarity = torch.einsum("bvd,vpd->vbp", normal, proxies.features)
        cameras, labels = proxies.cameras[own], proxies.labels[own]
        intra = intra_camera(similarity, own, proxies.cameras, self.temperature)
        terms = sum_of_camera_means(intra, cameras)
        if self.crosses:
            terms = terms + inter_camera(
                similarity, labels, cameras, proxies.labels, self.temperature
            )
        return terms

    @torch.no_grad()
    def update(self, frozen: bool = False) -> None:
        batch, self._batch = self._batch, None
        if frozen or batch is None or self.proxies is None:
            return
        features, own = batch
        for v, rows in enumerate(self.proxies.features):
            ema_rows(rows, features[:, v], own, self.momentum)
