"""ISE's loss: Cluster Contrast on images and on support samples moved toward other clusters.

Zhang et al., *Implicit Sample Extension for Unsupervised Person Re-Identification*, CVPR 2022,
arXiv 2204.06892.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from harness.components.objectives.cluster_memory import ClusterMemory
from harness.components.objectives.options import Momentum
from harness.components.objectives.views import view_logits, weigh_views

#: added to the denominator and to the argument of the logarithm, as published
TINY = 1e-6


def label_preserving(
    features: Tensor, supports: Tensor, labels: Tensor, images: int, temperature: float
) -> Tensor:
    """ISE's label-preserving loss of each view (V,): mean −log(P / (P + N + 1e-6) + 1e-6).

    With u = exp(f · f̃ / τ), P is the smallest u of an image f with the supports f̃ of its label. The
    supports of other labels, in batch order, are cut into groups of k·n; N is the sum of each
    group's largest u. As published, groups stand for labels only if the batch consists of blocks of
    n images, and where B·k or the number of these supports is no multiple of k·n, N is the sum of
    all their u. Without supports the loss is 0, as it nearly is for a batch of one label.

    Args:
        features: (B, V, D). supports: (B·k, V, D), the k of one image together. labels: (B,).
        images: n, the images of a label in a block. temperature: τ; small ones overflow.
    """
    near = len(supports) // len(labels)
    if not near:
        return features.new_zeros(features.shape[1])
    similarity = torch.einsum("bvd,svd->vbs", features, supports)
    u = torch.exp(similarity / temperature)
    same = labels[:, None] == labels.repeat_interleave(near)
    positive = u.masked_fill(~same, torch.inf).amin(dim=-1)
    # supports of other labels first, in batch order; zeros fill the rest
    order = torch.argsort(same.to(torch.int8), dim=1, stable=True)
    others = u.masked_fill(same, 0.0).gather(-1, order.expand_as(u))
    negative = others.sum(dim=-1)
    group = near * images
    if len(supports) % group == 0:
        hardest = others.unflatten(-1, (-1, group)).amax(dim=-1).sum(dim=-1)
        negative = torch.where((~same).sum(dim=1) % group == 0, hardest, negative)
    return -torch.log(positive / (positive + negative + TINY) + TINY).mean(dim=-1)


@dataclass(eq=False, repr=False)
class ImplicitExtension(ClusterMemory):
    """L = a L_contrast + b L_lp, with k support samples f̃ of each image f = norm(x).

    f̃ = norm(f + λ (m_near − m_y)) for the k rows m_near most similar to f besides its own; with
    fewer than k other clusters, for all of these. λ = ¼ λ0 ln(1 + (e − 1) t) rises with the
    `progress` t. Both factors ½ are the published code's: λ ends at ¼ λ0. L_contrast is
    ClusterMemory's for images and supports, which also update the memory, as one batch in this
    order. L_lp is `label_preserving`. Without `contrast_supports`, they are in L_lp only.

    Part views, which the published method does not have, have supports from their own memories and
    are weighted as in ClusterMemory.
    """

    momentum: Momentum = 0.2
    neighbours: Annotated[PositiveInt, Field(description="k, supports of each image")] = 1
    step: Annotated[NonNegativeFloat, Field(description="λ0; the last step has length λ0 / 4")] = (
        1.0
    )
    contrast_supports: Annotated[
        bool, Field(description="supports are in the contrastive loss and update the memory")
    ] = True
    contrast_weight: Annotated[NonNegativeFloat, Field(description="a, of the contrast")] = 1.0
    preserving_weight: Annotated[NonNegativeFloat, Field(description="b, of L_lp")] = 0.1
    preserving_temperature: Annotated[float, Field(ge=0.02, description="τ of L_lp")] = 0.6
    images: Annotated[PositiveInt, Field(description="n, the images of a label in a batch")] = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        #: (V,) label-preserving losses of the last batch, before weighting
        self.preserving = torch.empty(0)

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        self.memory = self.memory.to(embeddings.device)
        normal = F.normalize(embeddings, dim=-1)
        supports = self.extend(normal, labels)
        preserving = label_preserving(
            normal, supports, labels, self.images, self.preserving_temperature
        )
        self.preserving = preserving.detach()
        if self.contrast_supports:
            near = len(supports) // len(labels)
            labels = torch.cat([labels, labels.repeat_interleave(near)])
            normal = torch.cat([normal, supports])
        contrast = self.contrast(normal, labels)
        preserving = weigh_views(preserving, self.part_weight)
        return self.contrast_weight * contrast + self.preserving_weight * preserving

    def extend(self, features: Tensor, labels: Tensor) -> Tensor:
        """Support samples of features (B, V, D) of unit length: (B·k, V, D), those of one together.

        The supports of an image are in order of falling similarity.
        """
        views, clusters, _ = self.memory.shape
        similarity = view_logits(features.detach(), self.memory)
        own = labels.expand(views, -1)[..., None]
        similarity = similarity.scatter(-1, own, -torch.inf)
        near = similarity.topk(min(self.neighbours, clusters - 1), dim=-1).indices  # (V, B, k)
        view = torch.arange(views, device=near.device)[:, None, None]
        direction = self.memory[view, near] - self.memory[:, labels, None]  # (V, B, k, D)
        length = self.step / 4 * math.log1p((math.e - 1) * self.progress)
        moved = features.transpose(0, 1)[:, :, None] + length * direction
        return F.normalize(moved, dim=-1).permute(1, 2, 0, 3).flatten(0, 1)
