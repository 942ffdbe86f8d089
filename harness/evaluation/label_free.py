"""Criteria of feature quality that need no labels.

They use neither identities nor the run's pseudo-labels. Each clusters or ranks the training
features with fixed settings of its own, so that runs with different labelers are comparable. One
uses cameras. docs/search.md reports how well each correlates with mAP.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from pydantic import Field
from scipy.sparse import csr_matrix
from torch import Tensor

from harness.components.labelers.dbscan import dbscan
from harness.components.labelers.encoding import encode
from harness.components.labelers.jaccard import radius_graph
from harness.components.labelers.neighbours import nearest, search
from harness.core.errors import ConfigError, HarnessError, did_you_mean
from harness.core.interfaces import Backbone, UnlabelledSet, check_features
from harness.core.options import check_options
from harness.evaluation.cluster_quality import outliers_alone
from harness.training.extraction import extract

CRITERIA = ("cross_camera", "neighbours", "stability", "silhouette")
#: the silhouette ignores pairs with a larger Jaccard distance; at 1 they have nothing in common
FAR = 0.99


@dataclass(frozen=True)
class Reference:
    """Fixed settings of the k-reciprocal Jaccard distance and of DBSCAN."""

    k1: Annotated[int, Field(ge=1)] = 30
    k2: Annotated[int, Field(ge=1)] = 6
    eps: Annotated[float, Field(gt=0, le=1)] = 0.6
    min_samples: Annotated[int, Field(ge=1)] = 4


def label_free(
    criteria: Sequence[str], features: Tensor, flipped: Tensor, reference: Reference,
    cameras: Tensor | None = None,
) -> dict[str, float]:  # fmt: skip
    """Criteria of a network's training features, in percent; higher is better.

    - `neighbours`: overlap |A ∩ B| / |A ∪ B| of an image's k1 nearest neighbors (A) with those of
      its mirror image among the mirror images (B), mean over images.
    - `cross_camera`: the same, but only images of another camera count as overlap:
      |{j in A ∩ B: camera j ≠ camera i}| / |A ∪ B|. Persons appear in several cameras, backgrounds
      do not.
    - `stability`: adjusted Rand index between the clusters of the features and those of the
      mirrored ones, each outlier a cluster of its own; 0 if either has fewer than two clusters.
    - `silhouette`: of the clusters, by the Jaccard distance (Rousseeuw, *Silhouettes*, 1987); mean
      over all images, 0 for outliers and if there are fewer than two clusters.

    Args:
        criteria: some of `CRITERIA`; of these, `cross_camera` needs cameras (N,).
        features, flipped: (N, D), L2-normalized, of the images and of their mirror images.

    Raises:
        HarnessError: features that are not finite or not normalized.
        ConfigError: `cross_camera` without cameras.
    """
    if "cross_camera" in criteria and cameras is None:
        raise no_cameras()
    for x in (features, flipped):
        check_features(x[:, None])
    compute: dict[str, Callable[[], float]] = {
        "cross_camera": lambda: _neighbor_overlap(features, flipped, reference.k1, cameras),
        "neighbours": lambda: _neighbor_overlap(features, flipped, reference.k1),
        "stability": lambda: _stability(
            _clusters(_graph(features, reference, reference.eps), reference),
            _clusters(_graph(flipped, reference, reference.eps), reference),
        ),
        "silhouette": lambda: _silhouette(_wide_graph(features, reference), reference),
    }
    return {name: 100 * compute[name]() for name in criteria}


def no_cameras() -> ConfigError:
    """The error for `cross_camera` on data without cameras."""
    others = ", ".join(c for c in CRITERIA if c != "cross_camera")
    return ConfigError(
        "The criterion cross_camera needs cameras, but the data have none.",
        f"Set search.label_free or evaluation.label_free to one of {others}.",
    )


def column(criterion: str) -> str:
    """A criterion's key in a run's history."""
    return f"label_free_{criterion}"


def read_label_free(config: DictConfig) -> tuple[tuple[str, ...], Reference]:
    """The criteria that a run computes, and their settings.

    `selection=label_free` without criteria uses the first of `CRITERIA`. Raises ConfigError.
    """
    given = OmegaConf.to_container(config.evaluation, resolve=True)
    assert isinstance(given, dict)
    names, changes = given.get("label_free"), given.get("reference") or {}
    names = names or []
    names = list(names) if isinstance(names, list) else [str(names)]  # a number is a name, too
    if not names and config.selection == "label_free":
        names = [CRITERIA[0]]
    for name in names:
        if name not in CRITERIA:
            problem = f"evaluation.label_free: there is no criterion '{name}'."
            raise ConfigError(problem, did_you_mean(str(name), CRITERIA))
    if not names:
        return (), Reference()
    check_options(Reference, changes, "evaluation.reference")
    known = {"k1": int(config.neighbours.k1), "k2": int(config.neighbours.k2)}
    reference = Reference(**(known | changes))
    if reference.k2 > reference.k1:
        raise ConfigError(f"evaluation.reference={changes} is out of range: 1 ≤ k2 ≤ k1.")
    return tuple(names), reference


def make_label_free_test(
    criteria: Sequence[str], reference: Reference, data: UnlabelledSet, cameras: Tensor | None,
    device: torch.device, precision: str,
) -> Callable[[Backbone], dict[str, float]]:  # fmt: skip
    """A function that computes `label_free_NAME` for a network's global view on a training set.

    `cameras` (N,) are those of the set, even if the method does not use them. Raises ConfigError if
    a criterion needs them and there are none.
    """
    if "cross_camera" in criteria and cameras is None:
        raise no_cameras()

    def measure(backbone: Backbone) -> dict[str, float]:
        features, flipped = (
            extract(backbone, data.images, device, precision, views=1, mirrored=mirrored)[:, 0]
            for mirrored in (False, True)
        )
        found = label_free(criteria, features, flipped, reference, cameras)
        return {column(name): value for name, value in found.items()}

    return measure


def _neighbor_overlap(
    features: Tensor, flipped: Tensor, k1: int, cameras: Tensor | None = None
) -> float:
    sets = []
    # Equal features are ranked by image number. The mirror images are numbered backwards, so that
    # a collapsed network, whose features are all equal, has no overlap.
    backwards = len(features) - 1 - nearest(flipped.flip(0), k1 + 1).flip(0)
    for x in (nearest(features, k1 + 1), backwards):
        ranks = x[:, 1:].cpu().numpy()  # without the image itself
        rows = np.repeat(np.arange(len(ranks)), ranks.shape[1])
        sets.append(csr_matrix((np.ones(len(rows)), (rows, ranks.ravel())), (len(x),) * 2))
    both = sets[0].multiply(sets[1]).tocoo()
    common = np.bincount(both.row, minlength=len(features))
    sizes = [np.diff(s.indptr) for s in sets]
    counted = common
    if cameras is not None:
        camera = cameras.cpu().numpy()
        crossing = both.row[camera[both.row] != camera[both.col]]
        counted = np.bincount(crossing, minlength=len(features))
    return float(np.mean(counted / (sizes[0] + sizes[1] - common)))


def _graph(features: Tensor, reference: Reference, radius: float) -> csr_matrix:
    x = features.float().contiguous()
    found = search(x, reference.k1)
    encoding = encode(x, found.ranks, reference.k1, reference.k2, distances=found.distances)
    return radius_graph([encoding], radius)


def _wide_graph(features: Tensor, reference: Reference) -> csr_matrix:
    try:
        return _graph(features, reference, FAR)
    except HarnessError as error:
        raise HarnessError(
            f"The criterion silhouette is not possible for {len(features)} images: {error.cause}",
            "Use another one: evaluation.label_free or search.label_free=cross_camera.",
        ) from error


def _clusters(graph: csr_matrix, reference: Reference) -> np.ndarray:
    return dbscan(graph, reference.eps, reference.min_samples)


def _stability(one: np.ndarray, other: np.ndarray) -> float:
    if min(one.max(), other.max()) < 1:
        return 0.0
    from sklearn.metrics import adjusted_rand_score  # slow to import

    return float(adjusted_rand_score(outliers_alone(one), outliers_alone(other)))


def _silhouette(graph: csr_matrix, reference: Reference) -> float:
    labels = _clusters(graph, reference)
    clusters, n = int(labels.max()) + 1, len(labels)
    if clusters < 2:
        return 0.0
    # 1 − D is 0 for the pairs that are not stored
    alike = csr_matrix((1 - graph.data, graph.indices, graph.indptr), graph.shape)
    clustered = np.flatnonzero(labels >= 0)
    member = csr_matrix((np.ones(len(clustered)), (clustered, labels[clustered])), (n, clusters))
    sizes = np.bincount(labels[clustered], minlength=clusters)
    sums = (alike @ member).tocsr()[clustered].tocoo()
    own = labels[clustered][sums.row] == sums.col
    within, nearest_other = np.zeros(len(clustered)), np.zeros(len(clustered))
    within[sums.row[own]] = sums.data[own]
    np.maximum.at(nearest_other, sums.row[~own], sums.data[~own] / sizes[sums.col[~own]])
    a = 1 - within / np.maximum(sizes[labels[clustered]] - 1, 1)
    b = 1 - nearest_other
    return float(((b - a) / np.maximum(np.maximum(a, b), 1e-12)).sum() / n)
