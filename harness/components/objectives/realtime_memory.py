"""RTMem's loss: clusters whose rows are single images, and a memory of all images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeFloat
from torch import Tensor

from harness.components.objectives.cluster_memory import ClusterMemory
from harness.components.objectives.hybrid_memory import HybridMemory
from harness.components.objectives.options import Momentum, PartWeight, Temperature
from harness.core.interfaces import Objective


@dataclass(eq=False, repr=False)
class RealTimeMemory(Objective):
    """L = a + γ b: contrast with one current image of each cluster, and with all images.

    RTMem (IEEE TIP 2023), as its published code defines the terms; the paper was not at hand. With
    x = norm(embedding), a = CE(x Mᵀ / τ, y). A row of M starts each epoch as a member of its
    cluster drawn at random, and then is the batch's last image of its label (μ = 0). The memory of
    all N images is filled with the first features of the run and kept in checkpoints:
    b = −log(p + ε), p = S_y / (Σ_c S_c + ε), S_c = Σ over rows of c of exp(x·v / τ). Outliers are
    labels of their own, and v_i ← x after the gradient. With several views each has its own
    memories, and both terms have the weights (1 − λ2, λ2, …).

    As shipped, the published code overwrites b by a, so L = (1 + γ) a, and no instance memory is
    kept here.
    """

    temperature: Temperature = 0.05
    momentum: Momentum = 0.0
    instance_weight: Annotated[NonNegativeFloat, Field(description="γ, of the instance term")] = 1.2
    part_weight: PartWeight = 0.0
    as_shipped: Annotated[
        bool, Field(description="as the published code: (1 + γ) a, without the instance term b")
    ] = False

    def __post_init__(self) -> None:
        super().__init__()
        shared = self.temperature, self.momentum, self.part_weight
        self.by_cluster = ClusterMemory(*shared, start="member")
        self.by_instance = None if self.as_shipped else HybridMemory(*shared, reduce="sum")

    def prepare(self, views: int, dim: int, images: int) -> None:
        if self.by_instance is not None:
            self.by_instance.prepare(views, dim, images)

    def start_epoch(self, features: Tensor, labels: Tensor, cameras: Tensor | None = None) -> None:
        self.by_cluster.start_epoch(features, labels)
        if self.by_instance is not None:
            self.by_instance.start_epoch(features, labels)

    def forward(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> Tensor:
        cluster = self.by_cluster(embeddings, labels, indices)
        if self.by_instance is None:
            return (1.0 + self.instance_weight) * cluster
        return cluster + self.instance_weight * self.by_instance(embeddings, labels, indices)

    def update(self, frozen: bool = False) -> None:
        self.by_cluster.update(frozen)
        if self.by_instance is not None:
            self.by_instance.update(frozen)
