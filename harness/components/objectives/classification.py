"""Softmax and triplet losses: cross-entropies and batch-hard triplets, hard and soft.

As in MMT (Ge, Chen, Li, *Mutual Mean-Teaching*, ICLR 2020) and the methods built on its code. All
are means over the batch of logits (B, K) or features (B, D) of any layer.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import centroids
from harness.core.errors import TrainingError


@torch.no_grad()
def set_rows(classifier: Tensor, features: Tensor, labels: Tensor) -> int:
    """Set the first K rows of each view's classifier (V, rows, D) to the cluster means; return K.

    Features (N, V, D), labels (N,), -1 for outliers.

    Raises:
        TrainingError: more clusters than rows.
    """
    means = centroids(features, labels)
    clusters, rows = means.shape[1], classifier.shape[1]
    if clusters > rows:
        raise TrainingError(
            f"{clusters} clusters are too many for a classifier of {rows} rows.",
            f"Set objective.max_clusters={2 * clusters} and start again, or change the labeler so "
            "that it makes fewer clusters.",
        )
    classifier[:, :clusters] = means.to(classifier)
    return clusters


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.1) -> Tensor:
    """Cross-entropy against (1 − ε) one-hot + ε/K (Szegedy et al., 2016)."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def soft_cross_entropy(logits: Tensor, reference: Tensor) -> Tensor:
    """−Σ softmax(reference) log softmax(logits), no gradient to the reference."""
    return F.cross_entropy(logits, reference.detach().softmax(dim=-1))


@torch.no_grad()
def hardest_pairs(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each image the farthest of its label and the nearest of another (Hermans et al., 2017).

    An image that is alone with its label is its own positive.

    Returns:
        Indices of positives (B,) and negatives (B,), and (B,) whether the image has a negative.
    """
    distances = torch.cdist(features, features)
    same = labels[:, None] == labels[None]
    positives = distances.masked_fill(~same, -1.0).argmax(dim=1)
    negatives = distances.masked_fill(same, float("inf")).argmin(dim=1)
    return positives, negatives, ~same.all(dim=1)


def pair_distances(features: Tensor, others: Tensor) -> Tensor:
    """d(a, b) = sqrt(max(‖a − b‖², 1e-12)) of features (B, D) and the batch's `others` (B,).

    Only mined pairs are computed again, with gradient: this is cheaper than a B×B matrix with
    gradient, and avoids the cancellation of a² + b² − 2ab in float32.
    """
    return (features - features[others]).square().sum(dim=-1).clamp(min=1e-12).sqrt()


def hard_triplet(features: Tensor, labels: Tensor, margin: float) -> Tensor:
    """max(0, d_ap − d_an + m) of the hardest pairs; 0 for an image without a negative."""
    positives, negatives, counts = hardest_pairs(features, labels)
    gap = pair_distances(features, positives) - pair_distances(features, negatives)
    return (F.relu(gap + margin) * counts).mean()


def soft_triplet(
    features: Tensor, labels: Tensor, margin: float = 0.0, reference: Tensor | None = None
) -> Tensor:
    """Cross-entropy of softmax(d_ap, d_an) of the hardest pairs.

    The target is (m, 1 − m), or, given a reference (B, D), the softmax of the reference's own
    distances at the pairs mined in `features`; no gradient reaches it. 0 for an image without a
    negative.
    """
    positives, negatives, counts = hardest_pairs(features, labels)

    def distances(x: Tensor) -> Tensor:
        return torch.stack([pair_distances(x, positives), pair_distances(x, negatives)])

    if reference is not None:
        share = distances(reference.detach()).softmax(dim=0)[0]
    else:
        share = torch.full_like(features[:, 0], margin)
    positive, negative = distances(features).log_softmax(dim=0)
    return -((share * positive + (1.0 - share) * negative) * counts).mean()
