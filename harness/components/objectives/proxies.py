"""Camera proxies, and the contrastive terms on them of CAP, ICE and PPLR.

A proxy stands for the images of one label in one camera: norm(mean of their normalised features).
Wang et al., *Camera-aware Proxies for Unsupervised Person Re-Identification* (CAP), AAAI 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import centroids
from harness.core.errors import HarnessError

#: hardest negatives of a sample; below every similarity that normalised features can have
HARD_NEGATIVES, LOWEST = 50, -1e4


@dataclass(frozen=True)
class Proxies:
    """All (camera, label) pairs that have images, sorted by camera, then by label.

    Attributes:
        features: (P, D), or (V, P, D) of several views; unit rows.
        labels: (P,) int64. cameras: (P,) int64.
        of_image: (N,) int64, the proxy of each image of the set, -1 for outliers.
    """

    features: Tensor
    labels: Tensor
    cameras: Tensor
    of_image: Tensor

    def to(self, device: torch.device) -> Proxies:
        """The same on another device."""
        return Proxies(
            self.features.to(device),
            self.labels.to(device),
            self.cameras.to(device),
            self.of_image.to(device),
        )


def camera_proxies(features: Tensor, labels: Tensor, cameras: Tensor | None) -> Proxies:
    """Proxies of a set's normalised features (N, D) or (N, V, D), labels (N,), cameras (N,).

    Raises:
        HarnessError: no cameras, or no image that has a label.
    """
    if cameras is None:
        raise HarnessError(
            "Camera proxies need to know each image's camera.",
            "Set method.uses_cameras=true and use data with cameras, or another objective.",
        )
    kept = labels >= 0
    if not bool(kept.any()):
        raise HarnessError("All images are outliers: there are no proxies.", "Raise labeler.eps.")
    step = int(labels.max()) + 1
    pairs, numbers = torch.unique(cameras[kept] * step + labels[kept], return_inverse=True)
    of_image = torch.full_like(labels, -1)
    of_image[kept] = numbers
    # a proxy is the centroid of a cluster that its camera cuts out
    views = features if features.dim() == 3 else features[:, None]
    rows = centroids(views, of_image)
    rows = rows if features.dim() == 3 else rows[0]
    return Proxies(rows, pairs % step, torch.div(pairs, step, rounding_mode="floor"), of_image)


# ------------------------------------------------------------------------- terms of single samples


def soft_contrast(
    similarity: Tensor,
    positives: Tensor,
    barred: Tensor,
    temperature: float,
    negatives: int = HARD_NEGATIVES,
) -> Tensor:
    """Soft-label cross-entropy over a sample's positives and its hardest negatives, (…, B).

    −(1/|P|) Σ_{p ∈ P} log [ e^{s_p/τ} / (Σ_{q ∈ P} e^{s_q/τ} + Σ_{n ∈ N} e^{s_n/τ}) ];
    0 for a sample without positives. N are the `negatives` most similar proxies, barred ones last:
    with too few others the published codes take barred ones, positives too, *in again* as
    negatives, and so does this.

    Args:
        similarity: (…, B, P) of samples to proxies, before the temperature, above -1e4.
        positives: (B, P) bool. barred: (B, P) bool, no negatives while there are others.
    """
    ranked = similarity.detach().masked_fill(barred, LOWEST)
    # stable, so that it is the same barred ones on every machine
    hardest = torch.argsort(ranked, dim=-1, stable=True)[..., -negatives:]
    logits = similarity / temperature
    taken = [logits.masked_fill(~positives, -torch.inf), logits.gather(-1, hardest)]
    partition = torch.logsumexp(torch.cat(taken, dim=-1), dim=-1)
    count = positives.sum(-1)
    mean = (logits * positives).sum(-1) / count.clamp(min=1)
    return torch.where(count > 0, partition - mean, torch.zeros_like(mean))


def intra_camera(
    similarity: Tensor, own: Tensor, proxy_cameras: Tensor, temperature: float
) -> Tensor:
    """CE of each sample against the proxies of its own camera, (…, B), CAP's intra-camera loss.

    Args:
        similarity: (…, B, P). own: (B,) the proxy of each sample. proxy_cameras: (P,).
    """
    elsewhere = proxy_cameras != proxy_cameras[own][:, None]
    logits = (similarity / temperature).masked_fill(elsewhere, -torch.inf)
    chosen = logits.gather(-1, own.expand(logits.shape[:-1])[..., None])[..., 0]
    return torch.logsumexp(logits, dim=-1) - chosen


# --------------------------------------------------------------------------------- terms of a batch


def sum_of_camera_means(terms: Tensor, cameras: Tensor) -> Tensor:
    """Terms (…, B) of samples → their mean over each camera's samples, summed over cameras (…)."""
    _, camera, count = torch.unique(cameras, return_inverse=True, return_counts=True)
    return (terms / count[camera]).sum(-1)


def inter_camera(
    similarity: Tensor, labels: Tensor, cameras: Tensor, proxy_labels: Tensor, temperature: float
) -> Tensor:
    """CAP's inter-camera loss (…): ½ Σ_c mean over camera c's samples of `soft_contrast`.

    Positives are all proxies of the sample's label, those of its own camera included.

    Args:
        similarity: (…, B, P). labels, cameras: (B,). proxy_labels: (P,).
    """
    positives = proxy_labels == labels[:, None]
    terms = soft_contrast(similarity, positives, positives, temperature)
    return 0.5 * sum_of_camera_means(terms, cameras)


def ice_camera(
    embeddings: Tensor, labels: Tensor, cameras: Tensor, proxies: Proxies, temperature: float = 0.07
) -> Tensor:
    """ICE's camera term, `inter_camera` with one difference that its published code makes.

    The proxies (P, D) are normalised over the *proxies in each dimension*, not each over its
    dimensions. Chen et al., *ICE*, ICCV 2021.

    Args:
        embeddings: (B, D), not normalised. labels, cameras: (B,).
    """
    columns = F.normalize(proxies.features, dim=0)
    similarity = F.normalize(embeddings, dim=-1) @ columns.T
    return inter_camera(similarity, labels, cameras, proxies.labels, temperature)


def cross_camera(
    embeddings: Tensor, labels: Tensor, cameras: Tensor, proxies: Proxies, temperature: float = 0.07
) -> Tensor:
    """PPLR's camera-aware loss: the mean of `soft_contrast` over the batch, for each view (V,).

    Positives are the label's proxies in *other* cameras; a sample without any adds 0 but counts.
    Cho et al., *Part-based Pseudo Label Refinement* (PPLR), CVPR 2022.

    Args:
        embeddings: (B, V, D), not normalised. labels, cameras: (B,). proxies: of (V, P, D).
    """
    normal = F.normalize(embeddings, dim=-1)
    similarity = torch.einsum("bvd,vpd->vbp", normal, proxies.features)
    same = proxies.labels == labels[:, None]
    positives = same & (proxies.cameras != cameras[:, None])
    return soft_contrast(similarity, positives, same, temperature).mean(-1)
