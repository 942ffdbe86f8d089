"""NCPLR's loss: the images of a batch that are neighbors vote on each other's labels.

Cheng, Tai et al., *Neighbour Consistency Guided Pseudo-Label Refinement for Unsupervised Person
Re-Identification*, arXiv 2211.16847, and its global-local form, GL-NCPLR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat
from scipy.sparse import csr_matrix
from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.labelers.jaccard_dbscan import K1, K2, JaccardDBSCAN, PartShare
from harness.components.labelers.timer import Timer
from harness.components.objectives.classification import set_rows
from harness.components.objectives.cluster_memory import ClusterMemory
from harness.components.objectives.options import ClassifierRows
from harness.components.objectives.views import view_logits, weigh_views
from harness.core.errors import ConfigError, HarnessError


@dataclass(frozen=True)
class Near:
    """The pairs of N images that are neighbors, each image and itself included.

    keys: (E,) int64, i N + j of image i and its neighbor j, ascending. distances: (E,) float.
    """

    images: int
    keys: Tensor
    distances: Tensor

    @classmethod
    def of(cls, graph: csr_matrix) -> Near:
        """The entries of a graph (N, N); without an entry, an image is at 0 from itself."""
        n = graph.shape[0]
        itself = np.arange(n)
        rows = np.concatenate([np.repeat(itself, np.diff(graph.indptr)), itself])
        columns = np.concatenate([graph.indices, itself])
        keys, order = torch.from_numpy(rows * n + columns).sort(stable=True)
        distances = np.concatenate([graph.data, np.zeros(n, graph.data.dtype)])
        return cls(n, keys, torch.from_numpy(distances)[order])

    def to(self, device: torch.device) -> Near:
        return Near(self.images, self.keys.to(device), self.distances.to(device))

    def among(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B,) of a batch → whether b is a neighbor of a, and its distance: (B, B) each.

        Of an image that occurs several times, only the first occurrence is anyone's neighbor. The
        distances of others have no meaning.
        """
        wanted = indices[:, None] * self.images + indices
        place = torch.searchsorted(self.keys, wanted).clamp_(max=len(self.keys) - 1)
        repeated = (indices[:, None] == indices).tril(-1).any(dim=1)
        return (self.keys[place] == wanted) & ~repeated, self.distances[place]


def voted(logits: Tensor, near: Tensor, scores: Tensor) -> Tensor:
    """Σ_j w_ij softmax(logits_j) over the neighbors j of i, w_i the softmax of their scores.

    Logits (V, B, K), near and scores (V, B, B) or, of all views, (1, B, B) → (V, B, K).
    """
    weights = scores.masked_fill(~near, -torch.inf).softmax(dim=-1)
    return weights.to(logits.dtype) @ logits.softmax(dim=-1)


def below(values: Tensor, count: int) -> Tensor:
    """Whether each value is below the `count`-th largest of its row; none is for count=0."""
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    return values < values.topk(min(count, values.shape[-1]), dim=-1).values[..., -1:]


def mixed_by_agreement(votes: Tensor, temperature: float) -> Tensor:
    """Each view's votes, mixed with the others' by how well they agree: (V, B, K) → (V, B, K).

    Global: (g + Σ_p E(g, p) p) / (1 + Σ_p E(g, p)); part p: (p + E(p, g) g) / (1 + E(p, g)), with
    E(a, b) = exp(−KL(a ‖ b) / T). A vote that underflows to 0 counts as the smallest positive
    number in the logarithm, where the published code may get NaN.
    """
    log = votes.clamp(min=torch.finfo(votes.dtype).tiny).log()
    whole, parts = votes[:1], votes[1:]
    to_parts, to_whole = (
        (-(a * (la - lb)).sum(dim=-1, keepdim=True) / temperature).exp()
        for a, la, lb in ((whole, log[:1], log[1:]), (parts, log[1:], log[:1]))
    )
    mixed = (whole + (to_parts * parts).sum(dim=0)) / (1 + to_parts.sum(dim=0))
    return torch.cat([mixed, (parts + to_whole * whole) / (1 + to_whole)])


@dataclass(eq=False, repr=False)
class NeighbourConsistency(ClusterMemory):
    """L = L_cc + w Σ_v w_v CE(logits_v, t_v), L_cc being Cluster Contrast's and t_v a soft target.

    Each view has a classifier without bias on the embeddings as they are, whose first K rows are
    set to the centroids when an epoch starts. t_v = α one-hot(y) + (1 − α) q_v, without gradient;
    q_v is what the image's neighbors in the batch, itself included, vote by their class scores
    (`voted`). Neighbors lie within a radius of the Jaccard distance, whatever their labels. The
    distances are computed when an epoch starts, of all images.

    With part views (GL-NCPLR) the votes of global view and parts are mixed by their agreement, and
    parts have their own α. `topk` = c > 0 sets to 0 all but the c largest logits of each voter, or,
    with part views, all but the c largest votes in the mixed global ones (not normalized again).
    With K ≤ c clusters nothing is cut; the published code stops then.
    """

    soft_weight: Annotated[NonNegativeFloat, Field(description="w, of the soft targets' loss")] = (
        1.0
    )
    label_weight: Annotated[
        float, Field(ge=0, le=1, description="α, the pseudo-label's share of the soft target")
    ] = 0.1
    part_label_weight: Annotated[float, Field(ge=0, le=1, description="α of the part views")] = 0.3
    radius: Annotated[
        float, Field(gt=0, le=1, description="r, the largest Jaccard distance of neighbors")
    ] = 0.2
    part_radius: Annotated[
        float, Field(gt=0, le=1, description="r of the part views, with fused=false")
    ] = 0.2
    fused: Annotated[
        bool,
        Field(description="all views have the neighbors of the fused distance; else their own"),
    ] = True
    distance_weight: PartShare = 0.0
    k1: K1 = 30
    k2: K2 = 6
    by_distance: Annotated[
        bool, Field(description="votes weighted by softmax(distance / T_n); else equally")
    ] = True
    distance_temperature: Annotated[PositiveFloat, Field(description="T_n, of these weights")] = 1.0
    agreement_temperature: Annotated[PositiveFloat, Field(description="T, of the agreement")] = 5.0
    topk: Annotated[NonNegativeInt, Field(description="c, the votes that are kept; 0: all")] = 0
    cut_parts: Annotated[
        bool, Field(description="the cut of the global view's votes also cuts the parts'")
    ] = False
    max_clusters: ClassifierRows = 3000

    has_classifier = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cut_parts and self.topk == 0:
            raise ConfigError(
                "objective.cut_parts=true needs a cut, but objective.topk is 0.",
                "Set objective.topk above 0, or objective.cut_parts=false.",
            )
        if self.k2 > self.k1:
            raise ConfigError(
                f"objective.k2={self.k2} must not be larger than objective.k1={self.k1}.",
                "The defaults are neighbours={k1: 30, k2: 6}.",
            )
        #: (V, rows, D), made by `prepare`; rows: max_clusters, or N if that is less
        self.classifiers: nn.Parameter | None = None
        #: K of this epoch, and its neighbors: of all views, or of each
        self.clusters = 0
        self.near: list[Near] = []
        #: (V,) soft cross-entropies of the last batch, before weighting
        self.soft_terms = torch.empty(0)

    def prepare(self, views: int, dim: int, images: int) -> None:
        parts = views - 1
        if self.distance_weight and not 0 < parts * self.distance_weight < 1:
            share = self.distance_weight
            raise ConfigError(
                f"objective.distance_weight={share} does not fit {parts} part views.",
                f"Set it below {1 / parts:g}." if parts else "Set objective.distance_weight=0.",
            )
        if images < self.k1:
            raise ConfigError(
                f"{images} images are too few for objective.k1={self.k1} neighbors.",
                f"Use more images, or set neighbours.k1={images}.",
            )
        self.classifiers = nn.Parameter(torch.zeros(views, min(self.max_clusters, images), dim))

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        if self.classifiers is None:
            raise HarnessError("NeighbourConsistency has no classifiers.", "Call prepare first.")
        super().start_epoch(features, labels, cameras)
        self.clusters = set_rows(self.classifiers, features, labels)
        self.near = self.neighbours(features)

    def neighbours(self, features: Tensor) -> list[Near]:
        """Of features (N, V, D): one for all views by the fused distance, or one for each."""
        if self.fused:
            distances = [(features, self.radius, self.distance_weight)]
        else:
            radii = [self.radius] + [self.part_radius] * (features.shape[1] - 1)
            views = features.split(1, dim=1)
            distances = [(view, radius, 0.0) for view, radius in zip(views, radii, strict=True)]
        found = []
        for x, radius, share in distances:
            labeler = JaccardDBSCAN(k1=self.k1, k2=self.k2, part_weight=share)
            found.append(Near.of(labeler.graph(x, radius, Timer(x))))
        return found

    def logits(self, embeddings: Tensor) -> Tensor:
        if self.classifiers is None:
            raise HarnessError("NeighbourConsistency has no classifiers.", "Call prepare first.")
        if self.classifiers.device != embeddings.device:
            self.to(embeddings.device)
        return view_logits(embeddings, self.classifiers[:, : self.clusters])

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        return self.loss(embeddings, self.logits(embeddings), labels, indices)

    def loss(self, embeddings: Tensor, logits: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """The loss of embeddings (B, V, D) with class scores (V, B, K)."""
        contrast = super().forward(embeddings, labels, indices)
        targets = self.soft_targets(logits, labels, indices)
        soft = -(targets * logits.log_softmax(dim=-1)).sum(dim=-1).mean(dim=-1)
        self.soft_terms = soft.detach()
        return contrast + self.soft_weight * weigh_views(soft, self.part_weight)

    @torch.no_grad()
    def soft_targets(self, logits: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        """t of each view, from logits (V, B, K): (V, B, K)."""
        self.near = [near.to(logits.device) for near in self.near]
        pairs = zip(*(near.among(indices) for near in self.near), strict=True)
        near, distances = (torch.stack(views) for views in pairs)
        # as published, the neighbors that are *farther* away count more
        scores = distances / self.distance_temperature if self.by_distance else 0 * distances
        if len(logits) == 1:
            votes = voted(logits.masked_fill(below(logits, self.topk), 0.0), near, scores)
        else:
            votes = mixed_by_agreement(voted(logits, near, scores), self.agreement_temperature)
            dropped = below(votes[:1], self.topk).repeat(len(votes), 1, 1)
            if not self.cut_parts:
                dropped[1:] = False
            votes = votes.masked_fill(dropped, 0.0)
        shares = torch.full_like(votes[:, :1, :1], self.part_label_weight)
        shares[0] = self.label_weight
        return shares * F.one_hot(labels, self.clusters).to(votes) + (1 - shares) * votes
