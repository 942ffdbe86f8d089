"""BUC's bottom-up clustering: single images at first, then the nearest clusters merge.

Lin, Dong, Zheng, Yan, Yang, *A Bottom-Up Clustering Approach to Unsupervised Person
Re-identification*, AAAI 2019.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from torch import Tensor

from harness.components.labelers.tiles import squared_distances
from harness.components.labelers.timer import Timer
from harness.core.errors import HarnessError
from harness.core.interfaces import PseudoLabeler, PseudoLabels, check_features
from harness.core.precision import exact_matmul

# Sides of the square tiles of pairs.
_TILE_CPU, _TILE_GPU = 1024, 4096

Edges = tuple[np.ndarray, ...]  # costs (E,) and images i < j (E,)


@torch.no_grad()
def merge(features: Tensor, labels: Tensor, merges: int, size_penalty: float) -> Tensor:
    """One round of merging, exact, without an N×N matrix: labels (N,) int64 on the CPU.

    Pairs of images i < j of different clusters are visited in ascending order of

        ||f_i − f_j||² + λ (n_i + n_j),

    with the cluster sizes n before the round, ties in order of (i, j). The clusters of a pair are
    merged unless they already are, until there are enough merges. The merged cluster takes the
    smaller number; finally gaps in the numbers are closed.

    These merges are the first edges that Kruskal's algorithm takes. The first edges of a union of
    edge sets are among those of its parts, so pairs are visited tile by tile: only the `merges`
    best edges of a forest are kept, and soon few pairs of a tile beat the worst of them.

    Args:
        features: (N, D) float; distances are float32. labels: (N,) int64, 0 … K−1.
        merges: number of merges, K − 1 at most. size_penalty: λ.
    """
    features, labels = features.float(), labels.to(features.device)
    sizes = torch.bincount(labels)
    merges = min(merges, len(sizes) - 1)
    clusters = labels.cpu().numpy()
    if merges < 1:
        return torch.from_numpy(clusters.copy())
    best: Edges = (np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    limit = float("inf")
    # adding integer sizes first keeps equal penalties equal bit for bit
    own = sizes[labels]
    for rows, columns in _tiles(len(features), features.device):
        a, b = labels[rows], labels[columns]
        with exact_matmul(features.device):
            costs = squared_distances(features[rows], features[columns])
        costs += (own[rows][:, None] + own[columns]) * size_penalty
        wanted = (costs <= limit) & (a[:, None] != b)
        if rows == columns:
            wanted = wanted.triu(1)
        i, j = wanted.nonzero(as_tuple=True)
        edges = costs[i, j], i + rows.start, j + columns.start
        found = tuple(part.cpu().numpy() for part in edges)
        if len(found[0]):
            best = _first_merges(best, found, clusters, merges)
            if len(best[0]) == merges:
                limit = float(best[0][-1])
    return torch.from_numpy(_joined(clusters, clusters[best[1]], clusters[best[2]]))


@dataclass(eq=False, repr=False, kw_only=True)
class BottomUp(PseudoLabeler):
    """BUC's labeler: each call merges the nearest clusters of the previous one.

    The first call gives every image its own label, since BUC trains on these before it merges;
    every later call does one round of `merge` on view 0, until one cluster is left. The labels of
    the last call are the state; they belong to one training set, in one order.
    """

    min_calls = 2

    share: Annotated[float, Field(gt=0, lt=1, description="merges per call, over N")] = 0.05
    size_penalty: Annotated[
        NonNegativeFloat, Field(description="λ, penalty on the sizes of merged clusters")
    ] = 0.003

    def __post_init__(self) -> None:
        self.min_images = math.ceil(1 / self.share)  # for one merge per round
        while int(self.min_images * self.share) < 1:  # 1/161 · 161 is rounded to less than 1
            self.min_images += 1
        self.labels: Tensor | None = None

    def max_clusters(self, images: int) -> int:
        return images  # at first

    def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
        """Statistics: clusters, singles (clusters of one image), outliers (0) and the seconds.

        Raises:
            HarnessError: too few images to merge any, or not as many as in the previous call.
        """
        check_features(features)
        count = len(features)
        merges = int(count * self.share)
        if merges < 1:
            raise HarnessError(
                f"labeler.share={self.share:g} of {count} images is less than one merge per round.",
                f"Use more images, or labeler.share={math.ceil(1000 / count) / 1000} or more.",
            )
        if self.labels is not None and len(self.labels) != count:
            raise HarnessError(
                f"There are {count} images, but the previous labels are of {len(self.labels)}.",
                "Start again with overwrite=always.",
            )
        timer = Timer(features)
        if self.labels is None:
            labels = torch.arange(count)
        else:
            labels = merge(features[:, 0], self.labels, merges, self.size_penalty)
        timer.lap("cluster")
        self.labels = labels
        sizes = torch.bincount(labels)
        stats = {"clusters": len(sizes), "singles": int((sizes == 1).sum()), "outliers": 0}
        return PseudoLabels(labels.clone(), stats | timer.seconds)

    def describe(self) -> str:
        return f"share {self.share:g}, size_penalty {self.size_penalty:g}"

    def hint(self, labels: PseudoLabels) -> str:
        images = len(labels.labels)
        if labels.clusters < images:
            return "Too many clusters have merged: lower labeler.share, or train fewer epochs."
        return f"Each of the {images} images is its own cluster still: use more images."

    def state_dict(self) -> dict[str, Any]:
        return {"labels": None if self.labels is None else self.labels.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        labels = state["labels"]
        self.labels = None if labels is None else labels.cpu().clone()


def _tiles(count: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Tiles of the upper triangle of pairs; those on the diagonal come first and bound the rest."""
    tile = _TILE_CPU if device.type == "cpu" else _TILE_GPU
    strips = [slice(start, min(start + tile, count)) for start in range(0, count, tile)]
    yield from zip(strips, strips, strict=True)
    yield from itertools.combinations(strips, 2)


def _first_merges(best: Edges, found: Edges, clusters: np.ndarray, merges: int) -> Edges:
    """The first edges, at most `merges`, that Kruskal's algorithm takes of two sets."""
    costs, i, j = (np.concatenate(pair) for pair in zip(best, found, strict=True))
    order = np.lexsort((j, i, costs))
    a, b = clusters[i[order]], clusters[j[order]]
    count = int(clusters.max()) + 1
    # only the first edge between two clusters counts; places, unlike costs, never tie
    pairs, place = np.unique(np.minimum(a, b) * count + np.maximum(a, b), return_index=True)
    graph = csr_matrix((place + 1.0, np.divmod(pairs, count)), shape=(count, count))
    taken = np.sort(minimum_spanning_tree(graph).data)[:merges].astype(np.int64) - 1
    chosen = order[taken]
    return costs[chosen], i[chosen], j[chosen]


def _joined(clusters: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Labels (N,) after clusters a and b (E,) are merged, in the order of the smaller numbers."""
    count = int(clusters.max()) + 1
    links = csr_matrix((np.ones(len(a)), (a, b)), shape=(count, count))
    parts, part = connected_components(links, directed=False)
    smallest = np.full(parts, count)
    np.minimum.at(smallest, part, np.arange(count))
    return np.unique(smallest[part], return_inverse=True)[1][clusters]
