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
from harness.components.labelers.jaccard_dbscan import JaccardDBSCAN
from harness.components.labelers.timer import Timer
from harness.core.errors import ConfigError
from harness.core.interfaces import PseudoLabels

#: the quantile of R_indep over the first epoch's clusters that is the threshold for all epochs
_QUANTILE = 0.9


@dataclass(frozen=True)
class Reliable:
    """The result of `self_paced`."""

    #: (N,) int64 from 0, none negative, with gaps
    labels: np.ndarray
    #: the threshold of R_indep, given or computed; None without any cluster to compute it from
    threshold: float | None
    #: R_indep of the labels of more than one image, in label order
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
    from scipy import ndimage  # slow to import

    normal, tight, loose = (_numbered(labels) for labels in (normal, tight, loose))
    if not len(normal):
        return Reliable(normal, threshold, np.zeros(0))
    count = int(normal.max()) + 1
    compactness, independence = _differences(normal, tight), _differences(normal, loose)
    min_compactness, min_independence = (
        ndimage.minimum(values, normal, np.arange(count)) for values in (compactness, independence)
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


@dataclass(eq=False, repr=False, kw_only=True)
class SelfPaced(JaccardDBSCAN):
    """Self-paced labels from the (fused) Jaccard distance at three radii.

    In SpCL every image has a label, so none is -1 here. The gaps that `self_paced` leaves in the
    numbers are closed, in the same order. The first call that finds clusters sets the threshold of
    R_indep, which is the labeler's state.
    """

    gap: Annotated[
        NonNegativeFloat, Field(description="the other radii are eps − gap and eps + gap")
    ] = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.eps - self.gap, self.eps + self.gap
        if not (low > 0 and high <= 1):
            raise ConfigError(
                f"labeler.eps={self.eps} and labeler.gap={self.gap} give the radii {low:g} and "
                f"{high:g}, which must lie in (0, 1].",
                "The defaults are eps=0.6 and gap=0.02.",
            )
        self.threshold: float | None = None

    def max_clusters(self, images: int) -> int:
        return images  # each with its own label; early epochs come close

    def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
        """Statistics: clusters (labels of more than one image), singles (labels of one), outliers
        (of DBSCAN at the normal radius; they are among the singles), threshold (if there is one),
        and the seconds of each step.
        """
        timer = Timer(features)
        graph = self.graph(features, self.eps + self.gap, timer)
        normal, tight, loose = three_radii(graph, self.eps, self.gap, self.min_samples)
        timer.lap("cluster")
        found = self_paced(normal, tight, loose, self.threshold)
        _, labels, sizes = np.unique(found.labels, return_inverse=True, return_counts=True)
        timer.lap("select")
        self.threshold = found.threshold
        counts = {"clusters": sizes > 1, "singles": sizes == 1, "outliers": normal < 0}
        stats: dict[str, float] = {name: int(chosen.sum()) for name, chosen in counts.items()}
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
