"""Jaccard distance and DBSCAN: the labels of Cluster Contrast, MSKD, HHCL, PPLR and others."""

from __future__ import annotations

import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from harness.components.labelers.dbscan import dbscan
from harness.components.labelers.encoding import encode
from harness.components.labelers.jaccard import radius_graph
from harness.components.labelers.neighbours import BACKENDS, search
from harness.components.labelers.timer import Laps
from harness.core.errors import ConfigError
from harness.core.interfaces import PseudoLabeler, PseudoLabels, check_features


class JaccardDBSCAN(PseudoLabeler):
    """DBSCAN on the k-reciprocal Jaccard distance, of the global view or fused over all views.

    With V views and λ1 = `part_weight` the distance is (1 − (V−1) λ1) D_0 + λ1 Σ_{v≥1} D_v; MSKD
    (Lan et al., *Learning to Purification for Unsupervised Person Re-identification*, TIP 2023)
    has V = 3 and λ1 = 0.15. With λ1 = 0, as elsewhere, only view 0 is looked at.

    Args:
        eps: DBSCAN's radius, in (0, 1]; distances are in [0, 1].
        min_samples: neighbours within eps that make an image a core image, itself included.
        k1: neighbours, self included, among which reciprocity is sought.
        k2: neighbours, self included, that an image's encoding is averaged over; 1 is none.
        part_weight: λ1, in [0, 0.5).
        search: `auto`, `torch` or `faiss`; see `nearest`.

    Raises:
        ConfigError: a value outside of its range.
    """

    def __init__(
        self,
        *,
        eps: float = 0.6,
        min_samples: int = 4,
        k1: int = 30,
        k2: int = 6,
        part_weight: float = 0.0,
        search: str = "auto",
    ) -> None:
        if not 0 < eps <= 1:
            raise ConfigError(
                f"eps {eps} is not in (0, 1]",
                "Jaccard distances lie between 0 and 1; usual radii are 0.4 to 0.7.",
            )
        if min_samples < 1:
            raise ConfigError(f"min_samples {min_samples} is below 1", "The usual value is 4.")
        if not 1 <= k2 <= k1:
            raise ConfigError(
                f"k1 {k1} and k2 {k2} are not 1 <= k2 <= k1", "The usual values are 30 and 6."
            )
        if not 0 <= part_weight < 0.5:
            raise ConfigError(
                f"part_weight {part_weight} is not in [0, 0.5)",
                "Two part views take it off the global view twice; MSKD has 0.15.",
            )
        if search not in BACKENDS:
            raise ConfigError(f"unknown search '{search}'", f"Use one of {', '.join(BACKENDS)}.")
        self.eps = eps
        self.min_samples = min_samples
        self.k1 = self.min_images = k1
        self.k2 = k2
        self.part_weight = part_weight
        self.search = search

    def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
        """Features (N, V, D), L2-normalised per view, to labels; cameras are not looked at.

        Returns:
            Labels, with clusters, outliers and the seconds of each step as statistics.

        Raises:
            ConfigError: `part_weight` with a single view, or too large for the number of views.
            HarnessError: features that are not finite or zero, or fewer images than k1.
        """
        laps = Laps(features)
        graph = self.graph(features, self.eps, laps)
        labels = torch.from_numpy(dbscan(graph, self.eps, self.min_samples))
        laps.lap("cluster")
        counts = {"clusters": int(labels.max()) + 1, "outliers": int((labels < 0).sum())}
        return PseudoLabels(labels, counts | laps.seconds)

    def graph(self, features: Tensor, eps: float, laps: Laps) -> csr_matrix:
        """All pairs within `eps`, of the (fused) Jaccard distance; see `radius_graph`.

        Args:
            features: (N, V, D), L2-normalised per view. laps: takes the laps `search`, `jaccard`.

        Raises: as `label`.
        """
        check_features(features, minimum=self.k1)
        parts = features.shape[1] - 1
        if self.part_weight > 0 and parts == 0:
            raise ConfigError(
                f"part_weight {self.part_weight} needs part views, but there is only a global one",
                "Set part_weight to 0, or use a backbone with part views.",
            )
        if parts * self.part_weight >= 1:
            raise ConfigError(
                f"{parts} parts of weight {self.part_weight} leave nothing to the global view",
                f"Use a part_weight below {1 / parts:g}.",
            )
        encodings = []
        # one view after another: the copy of one is gone before the next is made
        for view in range(features.shape[1] if self.part_weight > 0 else 1):
            x = features[:, view].float().contiguous()
            laps.lap("jaccard")
            found = search(x, self.k1, self.search)
            laps.lap("search")
            encodings.append(encode(x, found.ranks, self.k1, self.k2, distances=found.distances))
        graph = radius_graph(encodings, eps, self.part_weight)
        laps.lap("jaccard")
        return graph

    def describe(self) -> str:
        """The settings, for messages and the record."""
        text = f"eps {self.eps:g}, min_samples {self.min_samples}, k1 {self.k1}, k2 {self.k2}"
        return f"{text}, part_weight {self.part_weight:g}" if self.part_weight else text
