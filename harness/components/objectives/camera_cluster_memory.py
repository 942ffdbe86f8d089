"""3C's loss: Cluster Contrast weighted by camera entropy, with rows that follow cameras' samples.

*3C: Confidence-Guided Clustering and Contrastive Learning for Unsupervised Person
Re-Identification*, arXiv 2408.09464.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.memory import (
    MemoryObjective,
    centroids,
    ema_rows,
    hardest,
    label_means,
    lowest,
)
from harness.components.objectives.options import Momentum, PartWeight, Temperature
from harness.components.objectives.views import view_cross_entropies, view_logits, weigh_views
from harness.core.errors import HarnessError

Rule = Literal["cm", "cm_hard", "cm_camera", "cm_hard_camera", "tccl_camera", "hd_camera"]


def camera_groups(labels: Tensor, cameras: Tensor) -> Tensor:
    """For each sample (B,), the index of the first one with its label and camera: (B,)."""
    same = (labels == labels[:, None]) & (cameras == cameras[:, None])
    return same.to(torch.int64).argmax(dim=1)  # torch.unique would wait for the GPU


def camera_entropies(labels: Tensor, groups: Tensor) -> Tensor:
    """Entropy of each sample's label over the cameras of the batch, in bits: (B,) float64.

    H = −Σ_c p_c log2 p_c, where p_c are the shares of the label's samples; `camera_groups` (B,).
    """
    own = (labels == labels[:, None]).double()
    size = own.sum(dim=1)
    bits = torch.log2(size / (groups == groups[:, None]).sum(dim=1))
    return (own @ bits) / size


def entropy_weights(labels: Tensor, groups: Tensor) -> Tensor:
    """Weights w = L e^H / Σ e^H of the samples: (B,) float64. The sum is over the L labels.

    As in the published code, H is in bits and the base is e. The mean of w over labels is 1, not
    that over samples.
    """
    share = 1 / (labels == labels[:, None]).double().sum(dim=1)  # of a sample in its label
    powers = camera_entropies(labels, groups).exp()
    return powers * share.sum() / (share * powers).sum()


def followed(
    rule: Rule, memory: Tensor, features: Tensor, labels: Tensor, groups: Tensor
) -> tuple[Tensor, Tensor]:
    """The features (S, D) that the rows of their labels (S,) follow, one after another.

    All are chosen by the old rows m. A group holds the samples of one label and camera; groups are
    in order of their first samples, and of equals the first is taken.

    - `cm`: every sample. `cm_hard`: the label's sample least similar to m.
    - `cm_camera`: each group's first sample. `cm_hard_camera`: each group's sample least similar
      to m.
    - `tccl_camera`: of the groups' centers o = norm(mean f), the one least similar to m.
    - `hd_camera` (CHD): the label's sample of largest a b / (a + b), a = 1 − f · m, b = 1 + f · o.

    Args:
        memory: (K, D). features: (B, D), normalized. labels: (B,). groups: (B,), `camera_groups`.
    """
    if rule == "cm":
        return features, labels
    similarity = (memory[labels] * features).sum(-1)
    if rule == "cm_hard":
        chosen = lowest(similarity, labels)
    elif rule == "cm_camera":
        chosen = torch.unique(groups)
    elif rule == "cm_hard_camera":
        chosen = lowest(similarity, groups)
    else:
        centers = F.normalize(label_means(features[:, None], groups, len(groups))[0], dim=-1)
        if rule == "tccl_camera":
            first = torch.unique(groups)
            chosen = first[hardest(memory, centers[first], labels[first])]
            return centers[chosen], labels[chosen]
        far, near = 1 - similarity, 1 + (centers[groups] * features).sum(-1)
        by_group = torch.argsort(groups, stable=True)
        scores = (far * near / (far + near))[by_group]
        chosen = by_group[lowest(-scores, labels[by_group])]
    return features[chosen], labels[chosen]


@dataclass(eq=False, repr=False)
class CameraClusterMemory(MemoryObjective):
    """L = Σ_v w_v (1/B) Σ_b w_{y_b} CE(norm(x_vb) M_vᵀ / τ, y_b), weighted by camera entropy.

    3C (arXiv 2408.09464) on any clusters. The memory starts at the cluster centers. After the
    gradient, m_y ← norm(μ m_y + (1 − μ) f) for the features that `followed` chooses by the `rule`.
    Part views, which the published method does not have, are weighted as in ClusterMemory; the
    entropies are the same for all views. Without weights, `cm` and `cm_hard` are ClusterMemory's.
    """

    temperature: Temperature = 0.05
    momentum: Momentum = 0.1
    part_weight: PartWeight = 0.0
    rule: Annotated[Rule, Field(description="the samples of a batch that rows follow")] = (
        "hd_camera"
    )
    weighted: Annotated[
        bool, Field(description="weigh samples by the entropy of their label's cameras")
    ] = True

    uses_cameras = True

    def __post_init__(self) -> None:
        super().__init__()
        #: (V, K, D), rows of unit length
        self.memory = torch.empty(0)
        #: (N,) of the set, and `camera_groups` (B,) of the last batch
        self.cameras: Tensor | None = None
        self._groups = torch.empty(0)
        #: (V,) cross-entropies of the last batch, before weighting the views
        self.terms = torch.empty(0)

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        if cameras is None:
            raise HarnessError(
                "CameraClusterMemory needs each image's camera.",
                "Set method.uses_cameras=true and use data with cameras, or another objective.",
            )
        self.memory, self.cameras = centroids(features, labels), cameras

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        if self.cameras is None:
            raise HarnessError("CameraClusterMemory has no cameras.", "Call start_epoch first.")
        self.memory, self.cameras = (x.to(embeddings.device) for x in (self.memory, self.cameras))
        self._groups = camera_groups(labels, self.cameras[indices])
        normal = F.normalize(embeddings, dim=-1)
        logits = view_logits(normal, self.memory) / self.temperature
        weights = None
        if self.weighted:
            weights = entropy_weights(labels, self._groups).to(normal.dtype)
        terms = view_cross_entropies(logits, labels, weights=weights)
        self.terms = terms.detach()
        self._batch = (normal.detach(), labels)
        return weigh_views(terms, self.part_weight)

    def follow(self, features: Tensor, rows: Tensor) -> None:
        for memory, view in zip(self.memory, features.unbind(dim=1), strict=True):
            ema_rows(memory, *followed(self.rule, memory, view, rows, self._groups), self.momentum)
