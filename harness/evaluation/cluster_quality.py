"""Quality of pseudo-labels against identities, for the record only, never for training."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from harness.core.errors import HarnessError


def cluster_quality(
    labels: np.ndarray | Tensor, identities: np.ndarray | Tensor
) -> dict[str, float | int]:
    """Compare pseudo-labels with identities.

    Counts: `clusters`, `outliers`, `identities` (the true number) and `clustered`, the share of
    images that have a label.

    Over the clustered images only:

    - `ari`: adjusted Rand index (Hubert and Arabie, *Comparing Partitions*, 1985);
    - `nmi`: mutual information divided by the arithmetic mean of the entropies;
    - `purity`: share of images that belong to their cluster's most frequent identity;
    - `pair_precision`: share of the pairs within a cluster that are of one identity (1 if there are
      no such pairs);
    - `pair_recall`: share of the pairs of one identity that are within a cluster (1 if there are
      none).

    These favor labelers that leave hard images out. `ari_all` and `pair_recall_all` therefore cover
    all images, with each outlier as a cluster of its own.

    Without any clustered image, the metrics over clustered images are 0. Images of unknown identity
    are ignored.

    Args:
        labels: (N,) integers, -1 for outliers. identities: (N,) integers, -1 where unknown.
    """
    # slow to import: a run that is finished already is reported without it
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    labels, identities = np.asarray(labels), np.asarray(identities)
    if labels.ndim != 1 or labels.shape != identities.shape:
        raise HarnessError(f"labels are {labels.shape}, identities {identities.shape}")
    known = identities >= 0
    labels, identities = labels[known], identities[known]
    inlier = labels >= 0
    clustered, ground_truth = labels[inlier], identities[inlier]

    alone = outliers_alone(labels)
    zero = ("ari", "nmi", "purity", "pair_precision", "pair_recall", "ari_all", "pair_recall_all")
    quality: dict[str, float | int] = {
        "clusters": len(np.unique(clustered)),
        "outliers": int((~inlier).sum()),
        "identities": len(np.unique(identities)),
        "clustered": float(inlier.mean()) if len(inlier) else 0.0,
        **dict.fromkeys(zero, 0.0),
    }
    if len(labels):
        quality["ari_all"] = float(adjusted_rand_score(identities, alone))
        quality["pair_recall_all"] = _pair_shares(identities, alone)[1]
    if len(clustered):
        table = contingency_matrix(ground_truth, clustered, sparse=True)
        quality["ari"] = float(adjusted_rand_score(ground_truth, clustered))
        quality["nmi"] = float(normalized_mutual_info_score(ground_truth, clustered))
        quality["purity"] = float(table.max(axis=0).sum() / len(clustered))
        quality["pair_precision"], quality["pair_recall"] = _pair_shares(ground_truth, clustered)
    return quality


def outliers_alone(labels: np.ndarray) -> np.ndarray:
    """Labels (N,) with each outlier as a cluster of its own, numbered after the last cluster."""
    labels, outliers = labels.astype(np.int64), labels < 0
    labels[outliers] = labels.max(initial=-1) + 1 + np.arange(outliers.sum())
    return labels


def _pair_shares(identities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Pair precision and recall."""
    from sklearn.metrics.cluster import pair_confusion_matrix

    (_, wrong), (missed, right) = pair_confusion_matrix(identities, labels)
    within, true = right + wrong, right + missed
    return float(right / within) if within else 1.0, float(right / true) if true else 1.0
