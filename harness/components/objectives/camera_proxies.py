"""CAP's and O2CAP's losses: each image against the proxies of labels in cameras."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives import proxies as camera_terms
from harness.components.objectives.memory import MemoryObjective, ema_views
from harness.components.objectives.options import Momentum, PartWeight, Temperature
from harness.components.objectives.views import weigh_views
from harness.core.errors import HarnessError


@dataclass(eq=False, repr=False)
class ProxyObjective(MemoryObjective):
    """A loss on all views of images and camera proxies, which are rebuilt each epoch.

    After the gradient, the proxy of each image follows it: m ← norm(μ m + (1 − μ) f). Part views,
    which CAP and O2CAP do not have, are weighted as in ClusterMemory.
    """

    temperature: Temperature = 0.07
    momentum: Momentum = 0.2
    part_weight: PartWeight = 0.0

    uses_cameras = True

    def __post_init__(self) -> None:
        super().__init__()
        #: of features (V, P, D)
        self.proxies: camera_terms.Proxies | None = None

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        self.proxies = camera_terms.camera_proxies(features, labels, cameras)

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if self.proxies is None:
            raise HarnessError(f"{type(self).__name__} has no proxies.", "Call start_epoch first.")
        self.proxies = self.proxies.to(embeddings.device)
        own = self.proxies.of_image[indices]
        normal = F.normalize(embeddings, dim=-1)
        self._batch = (normal.detach(), own)
        return weigh_views(self.terms(normal, own, self.proxies), self.part_weight)

    @abstractmethod
    def terms(self, normal: Tensor, own: Tensor, proxies: camera_terms.Proxies) -> Tensor:
        """Loss of each view (V,), of normalized embeddings (B, V, D) and their proxies (B,)."""

    def follow(self, features: Tensor, rows: Tensor) -> None:
        assert self.proxies is not None
        ema_views(self.proxies.features, features, rows, self.momentum)


@dataclass(eq=False, repr=False)
class CameraProxies(ProxyObjective):
    """L = Σ_c [mean CE within camera c + ½ mean soft-label CE over all cameras' proxies].

    Wang et al., *Camera-aware Proxies for Unsupervised Person Re-Identification*, AAAI 2021; the
    sums are over the cameras of the batch.
    """

    inter_epoch: Annotated[
        int, Field(ge=0, description="epochs before the inter-camera term, with warm-up ones")
    ] = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        #: epochs begun; a buffer, so that checkpoints keep it
        self.epochs_begun: Tensor
        self.register_buffer("epochs_begun", torch.zeros((), dtype=torch.int64))
        #: whether this epoch has the inter-camera term
        self.has_inter_camera = False

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        super().start_epoch(features, labels, cameras)
        self.has_inter_camera = int(self.epochs_begun) >= self.inter_epoch
        self.epochs_begun += 1

    def terms(self, normal: Tensor, own: Tensor, proxies: camera_terms.Proxies) -> Tensor:
        similarity = torch.einsum("bvd,vpd->vbp", normal, proxies.features)
        cameras, labels = proxies.cameras[own], proxies.labels[own]
        intra = camera_terms.intra_camera(similarity, own, proxies.cameras, self.temperature)
        terms = camera_terms.sum_of_camera_means(intra, cameras)
        if self.has_inter_camera:
            terms = terms + camera_terms.inter_camera(
                similarity, labels, cameras, proxies.labels, self.temperature
            )
        return terms


@dataclass(eq=False, repr=False)
class AssociatedProxies(ProxyObjective):
    """L = Σ_c [mean offline + mean online soft-label CE of camera c's samples] (O2CAP).

    Wang et al., *Offline-Online Associated Camera-Aware Proxies for Unsupervised Person
    Re-identification*, IEEE TIP 2022; the sums are over the cameras of the batch. Offline positives
    are all proxies of the image's label. Online positives are, whatever their labels, the
    `positives` best of each camera's best proxy q by a_q = w x·m_q + (1 − w) m_p·m_q, p the
    image's own proxy. Negatives are the most similar other proxies, online by a.

    The authors' code stops with an error if a camera has only outliers, or if the proxies are
    fewer than `negatives` + `positives`. Here such a camera has no proxy and is passed over, and
    all proxies are taken.
    """

    negatives: Annotated[
        PositiveInt, Field(description="n⁻, the hardest negatives of a sample")
    ] = 50
    positives: Annotated[PositiveInt, Field(description="n⁺, the online positives of a sample")] = 3
    image_share: Annotated[
        float,
        Field(ge=0, le=1, description="w, the image's share in the online ranking; the rest is its "
              "proxy's"),
    ] = 0.15  # fmt: skip
    by_camera: Annotated[
        bool,
        Field(description="sum the means of the batch's cameras; false: the mean over its images"),
    ] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        #: how many cameras have proxies
        self.cameras = 0

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        super().start_epoch(features, labels, cameras)
        assert self.proxies is not None
        self.cameras = len(self.proxies.cameras.unique())

    def terms(self, normal: Tensor, own: Tensor, proxies: camera_terms.Proxies) -> Tensor:
        offline, online = self.samples(normal, own, proxies)
        return self.reduce(offline + online, proxies.cameras[own])

    def samples(
        self, normal: Tensor, own: Tensor, proxies: camera_terms.Proxies
    ) -> tuple[Tensor, Tensor]:
        """The offline and the online loss of each sample, (V, B) each; arguments as of `terms`."""
        similarity = torch.einsum("bvd,vpd->vbp", normal, proxies.features)
        same = proxies.labels == proxies.labels[own][:, None]
        offline = camera_terms.soft_contrast(
            similarity, same, same, self.temperature, self.negatives, refill=False
        )
        near = proxies.features[:, own] @ proxies.features.transpose(1, 2)
        ranking = torch.lerp(near, similarity.detach(), self.image_share)
        chosen = camera_terms.nearest_by_camera(
            ranking, proxies.cameras, self.cameras, self.positives
        )
        online = camera_terms.soft_contrast(
            similarity, chosen, chosen, self.temperature, self.negatives, ranking, refill=False
        )
        return offline, online

    def reduce(self, samples: Tensor, cameras: Tensor) -> Tensor:
        """The loss of each view (V,), of the samples' losses (V, B) and their cameras (B,)."""
        if self.by_camera:
            return camera_terms.sum_of_camera_means(samples, cameras)
        return samples.mean(-1)
