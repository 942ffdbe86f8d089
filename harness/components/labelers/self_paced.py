"""SpCL's self-paced labels: only clusters that persist at other radii are kept.

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
from harness.components.labelers.timer import Timer
from harness.core.errors import ConfigError
from harness.core.interfaces import PseudoLabels

# The quantile of R_indep over the first epoch's clusters that is the threshold for all epochs.
_QUANTILE = 0.9


@dataclass(frozen=True)
class Reliable:
    """The result of `self_paced`.

    Attributes:
        labels: (N,) int64 from 0, none negative, with gaps: see `self_paced`.
        threshold: of R_indep, given or found; None if there was no cluster to find it by.
        independence: R_indep of the labels of more than one image, in label order.
    """

    labels: np.ndarray
    threshold: float | None
    independence: np.ndarray


def three_radii(
    graph: csr_matrix, eps: float, gap: float, min_samples: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """DBSCAN's labels (N,) at eps, eps − gap and eps + gap, of the graph at eps + gap."""
    normal, tight, loose = (dbscan(graph, r, min_samples) for r in (eps, eps - gap, eps + gap))
    return normal, tight, loose


def self_paced(
    normal: np.ndarray, tight: np.ndarray, loose: np.ndarray, threshold: float | None = None
) -> Reliable:
    """Keep independent and compact clusters; every other image gets its own label.

    Outliers first get their own labels, in image order after the clusters. With I(i) the images
    that share the label of image i at the normal radius,

        R_comp(i) = 1 − |I ∩ I_tight| / |I ∪ I_tight|,
        R_indep(i) = 1 − |I ∩ I_loose| / |I ∪ I_loose|,

    and R of a label is the smallest R of its images. Image i keeps its label if R_indep(label) ≤
    threshold and R_comp(i) ≤ R_comp(label). Otherwise it gets the next free number, in image order;
    so the numbers have gaps.

    Args:
        normal, tight, loose: (N,) DBSCAN's labels at eps, eps − gap, eps + gap; -1 for outliers.
        threshold: of R_indep. None: v_min(m − 1, round(0.9 m)) of the values v_0 ≤ … ≤ v_(m−1) of
            the m labels of more than one image.
    """
    normal, tight, loose = (_numbered(labels) for labels in (normal, tight, loose))
    if not len(normal):
        return Reliable(normal, threshold, np.zeros(0))
    count = int(normal.max()) + 1
    compactness, independence = _differences(normal, tight), _differences(normal, loose)
    min_compactness, min_independence = (
        _minima(values, normal, count) for values in (compactness, independence)
    )
    clusters = min_independence[np.bincount(normal) > 1]
    if threshold is None and len(clusters):
        place = min(len(clusters) - 1, round(_QUANTILE * len(clusters)))
        threshold = float(np.sort(clusters)[place])
    kept = compactness <= min_compactness[normal]
    if threshold is not None:
        kept &= min_independence[normal] <= threshold
    labels = np.where(kept, normal, count - 1 + np.cumsum(~kept))
    return Reliable(labels, threshold, clusters)


class SelfPaced(JaccardDBSCAN):
    """Self-paced labels from the (fused) Jaccard distance at three radii.

    In SpCL every image has a label, so none is -1 here. The gaps that `self_paced` leaves in the
    numbers are closed, in the same order. The first call that finds clusters sets the threshold of
    R_indep, which is the labeler's state.
    """

    def __init__(
        self,
        *,
        eps: Eps = 0.6,
        gap: Annotated[
            NonNegativeFloat, Field(description="the other radii are eps − gap and eps + gap")
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
        """All N, each with its own label; early epochs come close."""
        return images

    def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
        """Features (N, V, D), L2-normalized per view, to labels; cameras are unused.

        Statistics: clusters (labels of more than one image), singles (labels of one), outliers (of
        DBSCAN at the normal radius; they are among the singles), threshold (if there is one), and
        the seconds of each step.

        Raises:
            ConfigError, HarnessError: see `JaccardDBSCAN.label`.
        """
        timer = Timer(features)
        graph = self.graph(features, self.eps + self.gap, timer)
        normal, tight, loose = three_radii(graph, self.eps, self.gap, self.min_samples)
        timer.lap("cluster")
        found = self_paced(normal, tight, loose, self.threshold)
        _, labels, sizes = np.unique(found.labels, return_inverse=True, return_counts=True)
        timer.lap("select")
        self.threshold = found.threshold
        stats: dict[str, float] = {
            "clusters": int((sizes > 1).sum()),
            "singles": int((sizes == 1).sum()),
            "outliers": int((normal < 0).sum()),
        }
        if found.threshold is not None:
            stats["threshold"] = found.threshold
        return PseudoLabels(torch.from_numpy(labels.astype(np.int64)), stats | timer.seconds)

    def describe(self) -> str:
        return f"{super().describe()}, gap {self.gap:g}"

    def state_dict(self) -> dict[str, Any]:
        return {"threshold": self.threshold}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.threshold = state["threshold"]


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Labels with a label for each outlier, in image order after the others."""
    alone = labels < 0
    return np.where(alone, labels.max(initial=-1) + np.cumsum(alone), labels)


def _differences(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 − |A ∩ B| / |A ∪ B| for each image, A and B the images of its labels a and b: (N,)."""
    table = coo_matrix((np.ones(len(a), dtype=np.int64), (a, b))).tocsr()  # images in both
    common = np.asarray(table[a, b]).ravel()
    return 1 - common / (np.bincount(a)[a] + np.bincount(b)[b] - common)


def _minima(values: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The smallest value of each label: (count,)."""
    minima = np.full(count, np.inf)
    np.minimum.at(minima, labels, values)
    return minima
