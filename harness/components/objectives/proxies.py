"""Camera proxies, and the contrastive terms on them of CAP, ICE, PPLR and O2CAP.

A proxy stands for the images of one label in one camera: norm(mean of their normalized features).
Wang et al., *Camera-aware Proxies for Unsupervised Person Re-Identification* (CAP), AAAI 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import centroids
from harness.core.errors import HarnessError

#: hardest negatives of a sample; a value below every similarity of normalized features
HARD_NEGATIVES, LOWEST = 50, -1e4


@dataclass(frozen=True)
class Proxies:
    """All (camera, label) pairs that have images, sorted by camera, then by label.

    features: (P, D), or (V, P, D) of several views; unit rows. labels, cameras: (P,) int64.
    of_image: (N,) int64, the proxy of each image of the set, -1 for outliers.
    """

    features: Tensor
    labels: Tensor
    cameras: Tensor
    of_image: Tensor

    def to(self, device: torch.device) -> Proxies:
        return Proxies(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def camera_proxies(features: Tensor, labels: Tensor, cameras: Tensor | None) -> Proxies:
    """Proxies of a set's normalized features (N, D) or (N, V, D), labels (N,), cameras (N,).

    Raises:
        HarnessError: no cameras, or outliers alone.
    """
    if cameras is None:
        raise HarnessError(
            "Camera proxies need each image's camera.",
            "Set method.uses_cameras=true and use data with cameras, or another objective.",
        )
    kept = labels >= 0
    if not bool(kept.any()):
        raise HarnessError(
            "All images are outliers: there are no proxies.",
            "Change the settings of the labeler so that it finds clusters.",
        )
    step = int(labels.max()) + 1
    of_image = torch.full_like(labels, -1)
    pairs, of_image[kept] = torch.unique(cameras[kept] * step + labels[kept], return_inverse=True)
    # a proxy is the centroid of a cluster's images in one camera
    if features.dim() == 3:
        rows = centroids(features, of_image)
    else:
        rows = centroids(features[:, None], of_image)[0]
    return Proxies(rows, pairs % step, torch.div(pairs, step, rounding_mode="floor"), of_image)


def soft_contrast(
    similarity: Tensor, positives: Tensor, excluded: Tensor, temperature: float,
    negatives: int = HARD_NEGATIVES, ranking: Tensor | None = None, refill: bool = True,
) -> Tensor:  # fmt: skip
    """Mean over a sample's positives of their CE against all positives and the hardest others: (…).

    A sample without positives has loss 0. Negatives are the `negatives` first proxies by
    `ranking`, excluded ones last: where other proxies are too few, the published codes of CAP, ICE
    and PPLR count excluded ones, positives among them, *again* as negatives, and so does this.

    Args:
        similarity: (…, B, P) of samples to proxies, before the temperature, above -1e4.
        positives, excluded: (B, P) or (…, B, P) bool; excluded ones are no negatives while there
            are others.
        ranking: (…, B, P), the highest first; None: the similarity.
        refill: whether excluded ones are counted where others are too few; if not (O2CAP), all
            others are negatives.
    """
    ranked = (similarity if ranking is None else ranking).detach().masked_fill(excluded, LOWEST)
    logits = others = similarity / temperature
    if refill:  # a stable sort selects the same excluded proxies on every machine
        hardest = torch.argsort(ranked, dim=-1, stable=True)[..., -negatives:]
    else:
        hardest = ranked.topk(min(negatives, ranked.shape[-1])).indices
        others = logits.masked_fill(excluded, -torch.inf)
    taken = [logits.masked_fill(~positives, -torch.inf), others.gather(-1, hardest)]
    partition = torch.logsumexp(torch.cat(taken, dim=-1), dim=-1)
    count = positives.sum(-1)
    mean = (logits * positives).sum(-1) / count.clamp(min=1)
    return torch.where(count > 0, partition - mean, torch.zeros_like(mean))


def intra_camera(
    similarity: Tensor, own: Tensor, proxy_cameras: Tensor, temperature: float
) -> Tensor:
    """CAP's intra-camera loss (…, B): CE of `own` (B,) among the camera's proxies."""
    elsewhere = proxy_cameras != proxy_cameras[own][:, None]
    logits = (similarity / temperature).masked_fill(elsewhere, -torch.inf)
    chosen = logits.gather(-1, own.expand(logits.shape[:-1])[..., None])[..., 0]
    return torch.logsumexp(logits, dim=-1) - chosen


def sum_of_camera_means(terms: Tensor, cameras: Tensor) -> Tensor:
    """Mean of the terms (…, B) of each camera's samples (B,), summed over cameras: (…)."""
    count = (cameras[:, None] == cameras).sum(1)  # torch.unique would wait for the GPU
    return (terms / count).sum(-1)


def inter_camera(
    similarity: Tensor, labels: Tensor, cameras: Tensor, proxy_labels: Tensor, temperature: float
) -> Tensor:
    """CAP's inter-camera loss (…): ½ Σ_c mean over camera c's samples of `soft_contrast`.

    Positives are all proxies of the sample's label, those of its own camera included.
    """
    positives = proxy_labels == labels[:, None]
    terms = soft_contrast(similarity, positives, positives, temperature)
    return 0.5 * sum_of_camera_means(terms, cameras)


@torch.no_grad()
def nearest_by_camera(
    ranking: Tensor, proxy_cameras: Tensor, cameras: int, positives: int
) -> Tensor:
    """O2CAP's online positives (…, B, P), bool: the best proxies of different cameras.

    Of each camera's best proxy by `ranking` (…, B, P) the `positives` highest; if the proxies
    (P,) are of fewer cameras, then the highest of all others; if P is smaller, all.

    Args:
        cameras: the number of cameras that have proxies.
    """
    chosen = torch.zeros_like(ranking, dtype=torch.bool)
    seen = chosen
    for turn in range(min(positives, ranking.shape[-1])):
        barred = seen if turn < cameras else chosen
        best = ranking.masked_fill(barred, -torch.inf).argmax(-1, keepdim=True)
        chosen = chosen.scatter(-1, best, True)
        seen = seen | (proxy_cameras == proxy_cameras[best])
    return chosen


def ice_camera(
    embeddings: Tensor, labels: Tensor, cameras: Tensor, proxies: Proxies, temperature: float = 0.07
) -> Tensor:
    """ICE's camera term (Chen et al., ICCV 2021): `inter_camera`, but proxies normalized by column.

    As in the published code, the proxies (P, D) are normalized over the *proxies in each
    dimension*, not each over its dimensions. Embeddings (B, D) are not normalized.
    """
    similarity = F.normalize(embeddings, dim=-1) @ F.normalize(proxies.features, dim=0).T
    return inter_camera(similarity, labels, cameras, proxies.labels, temperature)


def cross_camera(
    embeddings: Tensor, labels: Tensor, cameras: Tensor, proxies: Proxies, temperature: float = 0.07
) -> Tensor:
    """PPLR's camera-aware loss (Cho et al., CVPR 2022): mean `soft_contrast` of each view (V,).

    Positives are the label's proxies in *other* cameras; a sample without any adds 0 but counts.
    Embeddings (B, V, D) are not normalized, the proxies have features (V, P, D).
    """
    normal = F.normalize(embeddings, dim=-1)
    similarity = torch.einsum("bvd,vpd->vbp", normal, proxies.features)
    same = proxies.labels == labels[:, None]
    positives = same & (proxies.cameras != cameras[:, None])
    return soft_contrast(similarity, positives, same, temperature).mean(-1)
