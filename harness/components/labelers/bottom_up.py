"""BUC's bottom-up clustering: every image alone at first, then the nearest clusters merge.

Lin, Dong, Zheng, Yan, Yang, *A Bottom-Up Clustering Approach to Unsupervised Person
Re-identification*, AAAI 2019.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from torch import Tensor

from harness.components.labelers.packed_keys import squared_distances
from harness.components.labelers.timer import Laps
from harness.core.errors import HarnessError
from harness.core.interfaces import PseudoLabeler, PseudoLabels, check_features
from harness.core.precision import exact_matmul

# Side of the square tiles that pairs are looked at in.
_TILE_CPU, _TILE_GPU = 1024, 4096

Edges = tuple[np.ndarray, np.ndarray, np.ndarray]  # costs (E,) and images i < j (E,)


@torch.no_grad()
def merge(features: Tensor, labels: Tensor, merges: int, size_penalty: float) -> Tensor:
    """One round of merging, exact, without an N×N matrix.

    The pairs of images i < j of different clusters are gone through in ascending order of

        ||f_i − f_j||² + λ (n_i + n_j),

    n the sizes of their clusters before the round, ties in order of (i, j). A pair's clusters are
    merged unless they are one by then, until there were enough merges. The merged cluster has the
    smaller number; then numbers are closed up, keeping their order.

    These merges are the first edges that Kruskal's algorithm takes. Those of a union of edge sets
    are among those of its parts, so pairs can come tile by tile: only the `merges` best edges of a
    forest are kept, and soon hardly any pair of a tile is below the worst of them.

    Args:
        features: (N, D) float; distances are float32.
        labels: (N,) int64, 0 … K−1.
        merges: how many; never more than K − 1 are done.
        size_penalty: λ.

    Returns:
        (N,) int64 on the CPU.
    """
    features, labels = features.float(), labels.to(features.device)
    sizes = torch.bincount(labels)
    merges = min(merges, len(sizes) - 1)
    clusters = labels.cpu().numpy()
    if merges < 1:
        return torch.from_numpy(clusters.copy())
    best: Edges = (np.zeros(0, np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    limit = float("inf")
    for rows, columns in _tiles(len(features), features.device):
        found = _pairs(features, labels, sizes, size_penalty, rows, columns, limit)
        if len(found[0]):
            best = _first_merges(best, found, clusters, merges)
            if len(best[0]) == merges:
                limit = float(best[0][-1])
    return torch.from_numpy(_joined(clusters, clusters[best[1]], clusters[best[2]]))


class BottomUp(PseudoLabeler):
    """Labels that grow: each call merges the nearest clusters of the call before.

    The first call gives every image a label of its own, as BUC trains on these before it merges;
    every later call does one round of `merge` on view 0. So `clusters` counts labels of single
    images, too, and there are no outliers. Where one cluster is left, it stays.

    Its state is the labels of the last call, and they belong to one training set, in one order.
    """

    hint = "Lower labeler.share"
    min_calls = 2

    def __init__(
        self,
        *,
        share: Annotated[
            float,
            Field(gt=0, lt=1, description="⌊N · share⌋ pairs of clusters are merged in a call"),
        ] = 0.05,
        size_penalty: Annotated[
            NonNegativeFloat,
            Field(description="λ, keeps large clusters from growing; BUC's script sets 0.003"),
        ] = 0.003,
    ) -> None:
        self.share = share
        self.min_images = math.ceil(1 / share)  # for one merge a round
        self.size_penalty = size_penalty
        self.labels: Tensor | None = None

    def max_clusters(self, images: int) -> int:
        """All of them, at first."""
        return images

    def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
        """Features (N, V, D), L2-normalised per view, to labels; cameras are not looked at.

        Returns:
            Labels, with clusters, singles (labels of one image; they are among the clusters),
            outliers (none) and the seconds as statistics.

        Raises:
            HarnessError: features that are not finite or zero, so few images that no pair is ever
                merged, or another number of images than in the call before.
        """
        check_features(features)
        count = len(features)
        merges = int(count * self.share)
        if merges < 1:
            raise HarnessError(
                f"{self.share:g} of {count} images is less than one merge a round",
                f"Use more images, or labeler.share={math.ceil(1000 / count) / 1000} or more.",
            )
        if self.labels is not None and len(self.labels) != count:
            raise HarnessError(
                f"{count} images, but the labels to go on from are those of {len(self.labels)}",
                "Start afresh with overwrite=always.",
            )
        laps = Laps(features)
        if self.labels is None:
            labels = torch.arange(count)
        else:
            labels = merge(features[:, 0], self.labels, merges, self.size_penalty)
        laps.lap("cluster")
        self.labels = labels
        sizes = torch.bincount(labels)
        stats = {"clusters": len(sizes), "singles": int((sizes == 1).sum()), "outliers": 0}
        return PseudoLabels(labels.clone(), stats | laps.seconds)

    def describe(self) -> str:
        """The settings, for messages and the record."""
        return f"share {self.share:g}, size_penalty {self.size_penalty:g}"

    def state_dict(self) -> dict[str, Any]:
        """The labels of the last call, None before the first."""
        return {"labels": None if self.labels is None else self.labels.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the labels of a `state_dict`."""
        labels = state["labels"]
        self.labels = None if labels is None else labels.cpu().clone()


def _tiles(count: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """The upper triangle of all pairs. The diagonal comes first: it already bounds the rest."""
    tile = _TILE_CPU if device.type == "cpu" else _TILE_GPU
    strips = [slice(start, min(start + tile, count)) for start in range(0, count, tile)]
    yield from zip(strips, strips, strict=True)
    for place, rows in enumerate(strips):
        for columns in strips[place + 1 :]:
            yield rows, columns


def _pairs(
    features: Tensor,
    labels: Tensor,
    sizes: Tensor,
    size_penalty: float,
    rows: slice,
    columns: slice,
    limit: float,
) -> Edges:
    """A tile's pairs of different clusters that cost no more than `limit`."""
    a, b = labels[rows], labels[columns]
    with exact_matmul(features.device):
        costs = squared_distances(features[rows], features[columns])
    # whole sizes are added first, so that equal penalties are equal bit for bit
    costs += (sizes[a][:, None] + sizes[b]) * size_penalty
    wanted = (costs <= limit) & (a[:, None] != b)
    if rows == columns:
        wanted = wanted.triu(1)
    i, j = wanted.nonzero(as_tuple=True)
    found = costs[i, j]
    return (
        found.cpu().numpy(),
        (i + rows.start).cpu().numpy(),
        (j + columns.start).cpu().numpy(),
    )


def _first_merges(best: Edges, found: Edges, clusters: np.ndarray, merges: int) -> Edges:
    """Of two sets of edges, those that Kruskal's algorithm takes first, at most `merges`."""
    costs, i, j = (np.concatenate(pair) for pair in zip(best, found, strict=True))
    order = np.lexsort((j, i, costs))
    a, b = clusters[i[order]], clusters[j[order]]
    count = int(clusters.max()) + 1
    # of the edges between two clusters only the first counts; places, unlike costs, never tie
    pairs, place = np.unique(np.minimum(a, b) * count + np.maximum(a, b), return_index=True)
    graph = csr_matrix((place + 1.0, (pairs // count, pairs % count)), shape=(count, count))
    taken = np.sort(minimum_spanning_tree(graph).data)[:merges].astype(np.int64) - 1
    chosen = order[taken]
    return costs[chosen], i[chosen], j[chosen]


def _joined(clusters: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Labels (N,) after clusters a and b (E,) were merged, in the order of the smallest of each."""
    count = int(clusters.max()) + 1
    links = csr_matrix((np.ones(len(a)), (a, b)), shape=(count, count))
    parts, part = connected_components(links, directed=False)
    smallest = np.full(parts, count)
    np.minimum.at(smallest, part, np.arange(count))
    return np.unique(smallest[part], return_inverse=True)[1][clusters]
