"""ICE's losses: a student against cluster centres, cameras, and a mean teacher's instances.

Chen, Lagadec, Brémond, *ICE: Inter-instance Contrastive Encoding for Unsupervised Person
Re-identification*, ICCV 2021. x is the student's embedding of one augmentation of an image, y the
mean teacher's of another, u the mean teacher's of the image as it is; none is normalised. The
camera term stands with the proxies (`ice_camera`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def cluster_contrast(
    x: Tensor, centres: Tensor, labels: Tensor, temperature: float = 0.5, epsilon: float = 0.1
) -> Tensor:
    """Label-smoothed CE of x Cᵀ/τ.

    As published neither side is normalised.

    Args:
        x: (B, D). labels: (B,) in 0 … K−1. epsilon: the share spread over all K labels.
        centres: (K, D), `cluster_means` of the normalised features.
    """
    return F.cross_entropy(x @ centres.T / temperature, labels, label_smoothing=epsilon)


def hard_instance(x: Tensor, y: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Mean of −log [e^p / (e^p + Σ_n e^n)], p = min over the same label.

    All by cosine similarity of x to y over τ. The own y is among the positives, negatives are all
    of other labels. Labels may be in the batch any number of times each (the published code wants
    them equally often, and gives the same then).

    Args:
        x, y: (B, D). labels: (B,).
    """
    logits = F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).T / temperature
    same = labels == labels[:, None]
    positive = logits.masked_fill(~same, torch.inf).amin(dim=1, keepdim=True)
    others = logits.masked_fill(same, -torch.inf)
    return (torch.logsumexp(torch.cat([positive, others], dim=1), dim=1) - positive[:, 0]).mean()


def consistency(
    x: Tensor, y: Tensor, u: Tensor, temperature: float = 0.4, factor: float = 10.0
) -> Tensor:
    """factor × mean KL( softmax(û ûᵀ/T) ‖ softmax(x̂ ŷᵀ/T) ), hats for normalised.

    Args:
        x, y, u: (B, D). factor: 10 in the published code.
    """
    x, y, u = (F.normalize(z, dim=-1) for z in (x, y, u))
    target = F.log_softmax(u @ u.T / temperature, dim=1)
    ours = F.log_softmax(x @ y.T / temperature, dim=1)
    return factor * F.kl_div(ours, target, reduction="batchmean", log_target=True)
