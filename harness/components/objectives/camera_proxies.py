"""CAP's loss: each image against the proxies of its camera, later against those of all cameras."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import proxies as camera_terms
from harness.components.objectives.memory import MemoryObjective, ema_views
from harness.components.objectives.options import Momentum, PartWeight, Temperature
from harness.components.objectives.views import weigh_views
from harness.core.errors import HarnessError


@dataclass(eq=False, repr=False)
class CameraProxies(MemoryObjective):
    """L = Σ_c [mean CE within camera c + ½ mean soft-label CE over all cameras' proxies].

    Wang et al., *Camera-aware Proxies for Unsupervised Person Re-Identification*, AAAI 2021; the
    sums are over the cameras of the batch. Proxies are rebuilt each epoch; after the gradient, the
    proxy of each image follows it: m ← norm(μ m + (1 − μ) f). Part views, which the published
    method does not have, are weighted as in ClusterMemory.
    """

    temperature: Temperature = 0.07
    momentum: Momentum = 0.2
    inter_epoch: Annotated[
        int, Field(ge=0, description="epochs before the inter-camera term, with warm-up ones")
    ] = 5
    part_weight: PartWeight = 0.0

    uses_cameras = True

    def __post_init__(self) -> None:
        super().__init__()
        #: epochs begun; a buffer, so that checkpoints keep it
        self.epochs_begun: Tensor
        self.register_buffer("epochs_begun", torch.zeros((), dtype=torch.int64))
        #: of features (V, P, D)
        self.proxies: camera_terms.Proxies | None = None
        #: whether this epoch has the inter-camera term
        self.has_inter_camera = False

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        self.proxies = camera_terms.camera_proxies(features, labels, cameras)
        self.has_inter_camera = int(self.epochs_begun) >= self.inter_epoch
        self.epochs_begun += 1

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if self.proxies is None:
            raise HarnessError("CameraProxies has no proxies.", "Call start_epoch first.")
        self.proxies = self.proxies.to(embeddings.device)
        own = self.proxies.of_image[indices]
        normal = F.normalize(embeddings, dim=-1)
        self._batch = (normal.detach(), own)
        return weigh_views(self.terms(normal, own, self.proxies), self.part_weight)

    def terms(self, normal: Tensor, own: Tensor, proxies: camera_terms.Proxies) -> Tensor:
        """Loss of each view (V,), of normalized embeddings (B, V, D) and their proxies (B,)."""
        similarity = torch.einsum("bvd,vpd->vbp", normal, proxies.features)
        cameras, labels = proxies.cameras[own], proxies.labels[own]
        intra = camera_terms.intra_camera(similarity, own, proxies.cameras, self.temperature)
        terms = camera_terms.sum_of_camera_means(intra, cameras)
        if self.has_inter_camera:
            terms = terms + camera_terms.inter_camera(
                similarity, labels, cameras, proxies.labels, self.temperature
            )
        return terms

    def follow(self, features: Tensor, rows: Tensor) -> None:
        assert self.proxies is not None
        ema_views(self.proxies.features, features, rows, self.momentum)
