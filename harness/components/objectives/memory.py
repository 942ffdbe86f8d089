"""Rows of a memory that follow features by an exponential moving average."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def centroids(features: Tensor, labels: Tensor) -> Tensor:
    """Normalised mean of each cluster's features: (N, V, D), (N,) → (V, K, D).

    Outliers (-1) are left out. Cluster Contrast (Dai et al., 2021), eq. 1, then L2-normalised.
    """
    return F.normalize(cluster_means(features, labels), dim=-1)


def cluster_means(features: Tensor, labels: Tensor) -> Tensor:
    """Mean of each cluster's features, not normalised: (N, V, D), (N,) → (V, K, D).

    Outliers (-1) are left out.
    """
    keep = labels >= 0
    return label_means(features[keep], labels[keep], int(labels.max()) + 1)


def label_means(features: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Mean of the features of each label, not normalised: (N, V, D), (N,) → (V, K, D).

    Args:
        labels: (N,) in 0 … K−1. clusters: K; labels that nothing has get a row of zeros.
    """
    sums = features.new_zeros(clusters, *features.shape[1:]).index_add_(0, labels, features)
    counts = torch.bincount(labels, minlength=clusters).clamp(min=1).to(features.dtype)
    return (sums / counts[:, None, None]).transpose(0, 1).contiguous()


def ema_rows(memory: Tensor, features: Tensor, labels: Tensor, momentum: float) -> None:
    """In place, m_y ← norm(μ m_y + (1 − μ) f) for every sample, one after another in batch order.

    Samples of different labels do not touch each other's rows, so the walk through the batch takes
    only as many vector steps as the largest label has samples; the result is the same.

    Args:
        memory: (K, D). features: (B, D), normalised. labels: (B,) in 0 … K−1. momentum: μ.
    """
    order = torch.argsort(labels, stable=True)
    sorted_labels = labels[order]
    counts = torch.unique_consecutive(sorted_labels, return_counts=True)[1]
    starts = torch.cumsum(counts, 0) - counts
    for turn in range(int(counts.max())):
        samples = order[(starts + turn)[counts > turn]]
        rows = labels[samples]
        memory[rows] = F.normalize(
            momentum * memory[rows] + (1.0 - momentum) * features[samples], dim=-1
        )


def hardest(memory: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """For each label in the batch, the index of the sample least similar to its row: (U,)."""
    similarity = (memory[labels] * features).sum(-1)
    order = torch.argsort(similarity, stable=True)
    order = order[torch.argsort(labels[order], stable=True)]
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = labels[order][1:] != labels[order][:-1]
    return order[first]
