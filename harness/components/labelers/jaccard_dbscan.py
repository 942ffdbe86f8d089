"""Jaccard distance and DBSCAN: the labels of Cluster Contrast, MSKD, HHCL, PPLR and others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from scipy.sparse import csr_matrix
from torch import Tensor

from harness.components.labelers.dbscan import dbscan
from harness.components.labelers.encoding import Encoding, encode
from harness.components.labelers.jaccard import radius_graph
from harness.components.labelers.neighbours import Search, search
from harness.components.labelers.timer import COLLAPSED, FEW, MANY, Timer, count_labels
from harness.core.errors import ConfigError
from harness.core.interfaces import PseudoLabeler, PseudoLabels, check_features

K1 = Annotated[PositiveInt, Field(description="neighbors checked for reciprocity, itself included")]
K2 = Annotated[
    PositiveInt, Field(description="neighbors of query expansion, itself included; 1: none")
]
PartShare = Annotated[
    float, Field(ge=0, lt=0.5, description="λ1, the share of each part view in the distance")
]


@dataclass(eq=False, repr=False, kw_only=True)
class JaccardDBSCAN(PseudoLabeler):
    """DBSCAN on the k-reciprocal Jaccard distance, of the global view or fused over all views.

    With V views and λ1 = `part_weight` the distance is (1 − (V−1) λ1) D_0 + λ1 Σ_{v≥1} D_v; MSKD
    (Lan et al., *Learning to Purification for Unsupervised Person Re-identification*, TIP 2023)
    has V = 3 and λ1 = 0.15. With λ1 = 0, as elsewhere, only view 0 counts.

    The image itself is one of the k1 neighbors. With `classical_lists`, as in re-ranking (Zhong et
    al., CVPR 2017) and in 3C, the lists have k1 + 1 entries; the half lists are the same.
    """

    eps: Annotated[float, Field(gt=0, le=1, description="DBSCAN's radius in Jaccard distance")] = (
        0.6
    )
    min_samples: Annotated[
        PositiveInt, Field(description="neighbors within eps of a core image, itself included")
    ] = 4
    k1: K1 = 30
    k2: K2 = 6
    part_weight: PartShare = 0.0
    classical_lists: Annotated[
        bool, Field(description="lists of k1 + 1 neighbors, as in re-ranking, instead of k1")
    ] = False
    search: Search = "auto"

    def __post_init__(self) -> None:
        if self.k2 > self.k1:
            raise ConfigError(
                f"labeler.k2={self.k2} must not be larger than labeler.k1={self.k1}.",
                "The defaults are k1=30 and k2=6.",
            )
        self.min_images = self.k1 + self.classical_lists

    def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
        """Statistics: clusters, outliers and the seconds of each step.

        Raises:
            ConfigError: `part_weight` with a single view, or too large for the number of views.
        """
        timer = Timer(features)
        graph = self.graph(features, self.eps, timer)
        labels = dbscan(graph, self.eps, self.min_samples)
        timer.lap("cluster")
        return PseudoLabels(torch.from_numpy(labels), count_labels(labels) | timer.seconds)

    def graph(self, features: Tensor, eps: float, timer: Timer) -> csr_matrix:
        """All pairs within `eps` by the (fused) Jaccard distance; raises what `label` raises."""
        graph = radius_graph(self.encodings(features, timer), eps, self.part_weight)
        timer.lap("jaccard")
        return graph

    def encodings(self, features: Tensor, timer: Timer) -> list[Encoding]:
        """One for each view that counts; raises what `label` raises."""
        check_features(features, minimum=self.min_images)
        parts = features.shape[1] - 1
        if self.part_weight > 0 and parts == 0:
            raise ConfigError(
                f"labeler.part_weight={self.part_weight} needs part views: there is one view only.",
                "Set labeler.part_weight=0, or use a backbone with part views.",
            )
        if parts * self.part_weight >= 1:
            raise ConfigError(
                f"{parts} parts of weight {self.part_weight} leave nothing to the global view.",
                f"Set labeler.part_weight below {1 / parts:g}.",
            )
        encodings = []
        # one view at a time, so that only one copy is in memory
        for view in range(features.shape[1] if self.part_weight > 0 else 1):
            x = features[:, view].float().contiguous()
            timer.lap("jaccard")
            found = search(x, self.k1 + self.classical_lists, self.search)
            timer.lap("search")
            encodings.append(encode(x, found.ranks, self.k1, self.k2, distances=found.distances))
        return encodings

    def describe(self) -> str:
        k1 = f"{self.k1} + 1" if self.classical_lists else self.k1
        text = f"eps {self.eps:g}, min_samples {self.min_samples}, k1 {k1}, k2 {self.k2}"
        return f"{text}, part_weight {self.part_weight:g}" if self.part_weight else text

    def hint(self, labels: PseudoLabels) -> str:
        if labels.scattered >= MANY and self.eps < 1:
            return "Most images have no cluster: raise labeler.eps or lower labeler.min_samples."
        if labels.scattered >= MANY:
            return "Most images have no cluster: lower labeler.min_samples."
        if labels.scattered <= FEW:
            return f"Nearly all images are in large clusters: lower labeler.eps. {COLLAPSED}"
        return (
            "The share of outliers is moderate: keep labeler.eps, and set labeler.k1 to about the "
            "number of images of a person."
        )
