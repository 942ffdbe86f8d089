"""ICE's losses: a student against cluster centers and against a mean teacher's instances.

Chen, Lagadec, Brémond, *ICE: Inter-instance Contrastive Encoding for Unsupervised Person
Re-identification*, ICCV 2021. x is the student's embedding of one augmentation of an image, y the
mean teacher's of another, u the mean teacher's of the image without augmentation; none is
normalized. The camera term is in `proxies` (`ice_camera`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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
