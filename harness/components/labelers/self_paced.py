"""SpCL's self-paced labels: only clusters that hold at other radii, too, are believed.

Ge, Zhu, Chen, Zhao, Li, *Self-paced Contrastive Learning with Hybrid Memory for Domain Adaptive
Object Re-ID*, NeurIPS 2020, section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat
from scipy.sparse import coo_matrix, csr_matrix
from torch import Tensor

from harness.components.labelers.dbscan import dbscan
from harness.components.labelers.jaccard_dbscan import (
    K1,
    K2,
    DistancePartWeight,
    Eps,
    JaccardDBSCAN,
    MinSamples,
)
from harness.components.labelers.neighbours import Search
from harness.components.labelers.timer import Laps
from harness.core.errors import ConfigError
from harness.core.interfaces import PseudoLabels

# Which of the first epoch's clusters, in order of R_indep, sets the threshold for all epochs.
_QUANTILE = 0.9


@dataclass(frozen=True)
class Reliable:
    """What `self_paced` finds.

    Attributes:
        labels: (N,) int64 from 0, none negative, with gaps: see `self_paced`.
        threshold: of R_indep, as given or as found; None if there was no cluster to find it by.
        independence: R_indep of the labels that have more than one image, in label order.
    """

    labels: np.ndarray
    threshold: float | None
    independence: np.ndarray


def three_radii(
    graph: csr_matrix, eps: float, gap: float, min_samples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """DBSCAN's labels (N,) at the radii eps, eps − gap and eps + gap.

    Args:
        graph: (N, N), all pairs within eps + gap; see `dbscan`.
    """
    normal, tight, loose = (dbscan(graph, r, min_samples) for r in (eps, eps - gap, eps + gap))
    return normal, tight, loose


def self_paced(
    normal: np.ndarray, tight: np.ndarray, loose: np.ndarray, threshold: float | None = None
) -> Reliable:
    """Clusters that are independent and compact, all other images on their own.

    Outliers first get labels of their own, in image order after the clusters. With I(i) the images
    that share the label of image i at the normal radius,

        R_comp(i) = 1 − |I ∩ I_tight| / |I ∪ I_tight|,
        R_indep(i) = 1 − |I ∩ I_loose| / |I ∪ I_loose|,

    and both of a label are the smallest of its images. Image i keeps its label if R_indep(label) ≤
    threshold and R_comp(i) ≤ R_comp(label). Otherwise it gets the next of the numbers that follow
    the normal radius's labels, in image order; so the numbers have gaps.

    Args:
        normal, tight, loose: (N,) DBSCAN's labels at eps, eps − gap, eps + gap; -1 for outliers.
        threshold: of R_indep. None sets it: of the v_0 ≤ … ≤ v_(m−1) of labels of more than one
            image, v_min(m − 1, round(0.9 m)).
    """
    normal, tight, loose = (_numbered(labels) for labels in (normal, tight, loose))
    if not len(normal):
        return Reliable(normal, threshold, np.zeros(0))
    count = int(normal.max()) + 1
    compactness, independence = _differences(normal, tight), _differences(normal, loose)
    least_compact, least_independent = (
        _least(values, normal, count) for values in (compactness, independence)
    )
    clusters = least_independent[np.bincount(normal) > 1]
    if threshold is None and len(clusters):
        place = min(len(clusters) - 1, round(_QUANTILE * len(clusters)))
        threshold = float(np.sort(clusters)[place])
    kept = compactness <= least_compact[normal]
    if threshold is not None:
        kept &= least_independent[normal] <= threshold
    labels = np.where(kept, normal, count - 1 + np.cumsum(~kept))
    return Reliable(labels, threshold, clusters)


class SelfPaced(JaccardDBSCAN):
    """Self-paced labels from the (fused) Jaccard distance at three radii.

    By SpCL's definition every image keeps a label, if need be alone, and the numbers have gaps (see
    `self_paced`). Here the numbers are closed up, in the same order, so that each is in use; what
    is together stays together. Nothing is -1.

    The threshold of R_indep is found at the first call, and kept: it is the labeler's state. If
    that call finds no cluster at all, the next one that does sets it.
    """

    def __init__(
        self,
        *,
        eps: Eps = 0.6,
        gap: Annotated[
            NonNegativeFloat,
            Field(description="the tight radius is eps − gap, the loose one eps + gap"),
        ] = 0.02,
        min_samples: MinSamples = 4,
        k1: K1 = 30,
        k2: K2 = 6,
        part_weight: DistancePartWeight = 0.0,
        search: Search = "auto",
    ) -> None:
        super().__init__(
            eps=eps, min_samples=min_samples, k1=k1, k2=k2, part_weight=part_weight, search=search
        )
        if not (eps - gap > 0 and eps + gap <= 1):
            raise ConfigError(
                f"labeler.eps={eps} and labeler.gap={gap} give the radii {eps - gap:g} and "
                f"{eps + gap:g}, which must lie in (0, 1].",
                "The defaults are eps=0.6 and gap=0.02.",
            )
        self.gap = gap
        self.threshold: float | None = None

    def max_clusters(self, images: int) -> int:
        """All of them, each on its own; early epochs come near that."""
        return images

    def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
        """Features (N, V, D), L2-normalised per view, to labels; cameras are not looked at.

        Returns:
            Labels. Statistics: clusters (labels of more than one image), singles (labels of one),
            outliers (of DBSCAN at the normal radius; they are among the singles), threshold (if
            there is one), and the seconds of each step.

        Raises:
            HarnessError: features that are not finite or zero, or fewer images than k1.
        """
        laps = Laps(features)
        graph = self.graph(features, self.eps + self.gap, laps)
        normal, tight, loose = three_radii(graph, self.eps, self.gap, self.min_samples)
        laps.lap("cluster")
        found = self_paced(normal, tight, loose, self.threshold)
        _, labels, sizes = np.unique(found.labels, return_inverse=True, return_counts=True)
        laps.lap("select")
        self.threshold = found.threshold
        stats: dict[str, float] = {
            "clusters": int((sizes > 1).sum()),
            "singles": int((sizes == 1).sum()),
            "outliers": int((normal < 0).sum()),
        }
        if found.threshold is not None:
            stats["threshold"] = found.threshold
        return PseudoLabels(torch.from_numpy(labels.astype(np.int64)), stats | laps.seconds)

    def describe(self) -> str:
        """The settings, for messages and the record."""
        return f"{super().describe()}, gap {self.gap:g}"

    def state_dict(self) -> dict[str, Any]:
        """The threshold, None before the first call."""
        return {"threshold": self.threshold}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the threshold of a `state_dict`."""
        self.threshold = state["threshold"]


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Labels with outliers as labels of their own, in image order after the others."""
    alone = labels < 0
    return np.where(alone, labels.max(initial=-1) + np.cumsum(alone), labels)


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 − |A ∩ B| / |A ∪ B| for each image, A and B the images of its labels a and b: (N,)."""
    table = coo_matrix((np.ones(len(a), dtype=np.int64), (a, b))).tocsr()  # images in both
    common = np.asarray(table[a, b]).ravel()
    return 1 - common / (np.bincount(a)[a] + np.bincount(b)[b] - common)


def _least(values: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The smallest value of each label: (count,)."""
    least = np.full(count, np.inf)
    np.minimum.at(least, labels, values)
    return least
