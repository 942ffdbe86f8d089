"""Feature memories whose rows follow batches by an exponential moving average."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.core.interfaces import Objective


class MemoryObjective(Objective):
    """An objective whose memory takes in each batch after its gradient was computed."""

    #: normalized features (B, V, D) of the last batch, and the memory row of each (B,)
    _batch: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def follow(self, features: Tensor, rows: Tensor) -> None:
        """Update the memory with a batch: features (B, V, D), rows (B,)."""

    @torch.no_grad()
    def update(self, frozen: bool = False) -> None:
        batch, self._batch = self._batch, None
        if batch is not None and not frozen:
            self.follow(*batch)


def centroids(features: Tensor, labels: Tensor) -> Tensor:
    """`cluster_means`, L2-normalized; Cluster Contrast (Dai et al., 2021), eq. 1."""
    return F.normalize(cluster_means(features, labels), dim=-1)


def cluster_means(features: Tensor, labels: Tensor) -> Tensor:
    """Mean of each cluster's features, without outliers (-1): (N, V, D), (N,) → (V, K, D)."""
    keep = labels >= 0
    return label_means(features[keep], labels[keep], int(labels.max()) + 1)


def label_means(features: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Mean of each label's features, 0 if it has none: (N, V, D), (N,) in 0 … K−1 → (V, K, D)."""
    sums = features.new_zeros(clusters, *features.shape[1:]).index_add_(0, labels, features)
    ones = features.new_ones(len(labels))  # torch.bincount would wait for the GPU
    counts = features.new_zeros(clusters).index_add_(0, labels, ones).clamp_(min=1)
    return (sums / counts[:, None, None]).transpose(0, 1).contiguous()


def shuffled_by_label(labels: Tensor) -> Tensor:
    """Indices (N,) in ascending order of labels (N,), in random order within each label.

    The random numbers are those of torch's CPU generator, whatever the device.
    """
    order = torch.randperm(len(labels)).to(labels.device)
    return order[labels[order].argsort(stable=True)]


def draw_one_each(labels: Tensor) -> Tensor:
    """An image of each cluster, uniformly drawn; outliers (-1) have none: (N,) → (K,) int64."""
    order = shuffled_by_label(labels)
    order = order[labels[order] >= 0]
    sizes = torch.bincount(labels[order])
    return order[sizes.cumsum(0) - sizes]


def ema_rows(memory: Tensor, features: Tensor, labels: Tensor, momentum: float) -> None:
    """In place, m_y ← norm(μ m_y + (1 − μ) f) for every sample, one after another in batch order.

    Memory (K, D), features (B, D), normalized, labels (B,). There are only as many vector steps as
    the most frequent label has samples, since different labels update different rows. On a GPU this
    number is waited for, once per step and view.
    """
    order = torch.argsort(labels, stable=True)
    counts = torch.unique_consecutive(labels[order], return_counts=True)[1]
    starts = torch.cumsum(counts, 0) - counts
    for turn in range(int(counts.max())):
        samples = order[(starts + turn)[counts > turn]]
        rows = labels[samples]
        followed = momentum * memory[rows] + (1.0 - momentum) * features[samples]
        memory[rows] = F.normalize(followed, dim=-1)


def ema_views(memory: Tensor, features: Tensor, labels: Tensor, momentum: float) -> None:
    """`ema_rows` for each view: memory (V, K, D), features (B, V, D)."""
    for rows, view in zip(memory, features.unbind(dim=1), strict=True):
        ema_rows(rows, view, labels, momentum)


def hardest(memory: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """For each label in the batch, the index of the sample least similar to its row: (U,)."""
    return lowest((memory[labels] * features).sum(-1), labels)


def lowest(scores: Tensor, labels: Tensor) -> Tensor:
    """For each label in ascending order, the index of its sample of lowest score: (B,) → (U,).

    Of equal scores the first sample's counts.
    """
    order = torch.argsort(scores, stable=True)
    order = order[torch.argsort(labels[order], stable=True)]
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = labels[order][1:] != labels[order][:-1]
    return order[first]
