"""Golden cases of distances, DBSCAN, and the label steps of MSKD, SpCL and BUC."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from harness.components.labelers import (
    JaccardDBSCAN,
    dbscan,
    distance_rows,
    encode,
    merge,
    nearest,
    self_paced,
    three_radii,
)
from harness.components.objectives.memory import centroids
from harness.conformance.cases import Check, Vectors, case, close, equal
from harness.conformance.schedules import mskd_schedules

DISTANCE = 2e-6


def _rows(features: Tensor, k1: int, k2: int, count: int) -> Tensor:
    encoding = encode(features, nearest(features, k1), k1, k2)
    return distance_rows([encoding], torch.arange(count))


def _jaccard(z: Vectors) -> Iterator[Check]:
    """Neighbour lists and Jaccard distances from features, with and without query expansion."""
    features = torch.from_numpy(z["features"])
    k1, k2 = int(z["k1"]), int(z["k2"])
    yield equal("neighbour lists", nearest(features, k1), z["rank"])
    yield close("distance", _rows(features, k1, k2, len(features)), z["dist"], DISTANCE)
    first = len(z["dist_k2_1_first100"])
    yield close(
        "distance, k2 = 1", _rows(features, k1, 1, first), z["dist_k2_1_first100"], DISTANCE
    )


for _name in ("jaccard_k20_k2_6", "jaccard_k30_k2_6"):
    case(_name)(_jaccard)


def _labels(distances: np.ndarray, eps: float, min_samples: int) -> np.ndarray:
    return dbscan(_graph(distances, eps), eps, min_samples)


def _graph(distances: np.ndarray, eps: float) -> csr_matrix:
    """What a dense matrix holds within eps, zeros included."""
    rows, columns = np.nonzero(distances <= eps)
    return csr_matrix((distances[rows, columns], (rows, columns)), shape=distances.shape)


@case("dbscan")
def clusterings(z: Vectors) -> Iterator[Check]:
    """Labels of small matrices with border points and distances equal to the radius."""
    samples = int(z["min_samples"])
    for k1 in (20, 30):  # labels of the distances that stand in the neighbouring files
        other = z.neighbour(f"jaccard_k{k1}_k2_6")
        for key in sorted(key for key in z if key.startswith(f"labels_k{k1}_eps")):
            if other is not None:
                ours = _labels(other["dist"], int(key[-3:]) / 100, samples)
                yield equal(f"k1 = {k1}, eps 0.{key[-2:]}", ours, z[key])
    for eps in ("015", "030"):
        ours = _labels(z["small_dist"], int(eps) / 100, samples)
        yield equal(f"border points, eps 0.{eps[1:]}", ours, z[f"small_labels_eps{eps}"])
    for eps, least in (("025", 3), ("025", 4), ("050", 4)):
        ours = _labels(z["grid_dist"], int(eps) / 100, least)
        theirs = z[f"grid_labels_eps{eps}_min{least}"]
        yield equal(f"on the radius, eps 0.{eps[1:]}, {least} samples", ours, theirs)


@case("mskd_pipeline")
def pipeline(z: Vectors) -> Iterator[Check]:
    """From three views' features to distances, labels and memories, and the schedules."""
    views = torch.from_numpy(z["features"])
    k1, k2, share = int(z["k1"]), int(z["k2"]), float(z["lambda1"])
    encodings = [encode(view, nearest(view, k1), k1, k2) for view in views]
    for name, encoding in zip(("global", "upper", "lower"), encodings, strict=True):
        theirs = z[f"dist_{name}_first40"]
        rows = distance_rows([encoding], torch.arange(len(theirs)))
        yield close(f"distance, {name}", rows, theirs, DISTANCE)
    fused = distance_rows(encodings, torch.arange(views.shape[1]), share)
    yield close("distance, fused", fused, z["dist_combined"], DISTANCE)
    features = views.transpose(0, 1).contiguous()
    labeler = JaccardDBSCAN(
        eps=float(z["eps"]), min_samples=int(z["min_samples"]), k1=k1, k2=k2, part_weight=share
    )
    labels = labeler.label(features).labels
    yield equal("labels", labels, z["labels"])
    yield close("centroids", centroids(features, labels), z["centroids"], DISTANCE)
    yield from mskd_schedules(z)


@case("spcl_selfpaced")
def self_paced_labels(z: Vectors) -> Iterator[Check]:
    """Three epochs of SpCL's labels, from distances and from the authors' DBSCAN labels."""
    eps, gap, samples = float(z["eps"]), float(z["eps_gap"]), int(z["min_samples"])
    threshold = None
    for epoch, distances in enumerate(z["dist"]):
        radii = three_radii(_graph(distances, eps + gap), eps, gap, samples)
        theirs = [z[f"epoch{epoch}_dbscan_{name}"] for name in ("normal", "tight", "loose")]
        yield equal(f"DBSCAN at three radii {epoch}", np.stack(radii), np.stack(theirs))
        for source, labels in (("distances", radii), ("DBSCAN labels", theirs)):
            found = self_paced(labels[0], labels[1], labels[2], threshold)
            yield equal(f"labels from {source} {epoch}", found.labels, z[f"epoch{epoch}_labels"])
            if threshold is None:  # the published values were computed in float32
                theirs_first = z["first_epoch_cluster_R_indep"]
                yield close("R_indep of clusters", found.independence, theirs_first, DISTANCE)
        threshold = found.threshold
        yield close(f"threshold {epoch}", threshold, z["indep_thres"], DISTANCE)


@case("buc_merge")
def merging(z: Vectors) -> Iterator[Check]:
    """Three rounds of BUC's merging, each from the authors' labels and from our own."""
    penalty, merges = float(z["size_penalty"]), int(z["nums_to_merge"])
    ours = torch.from_numpy(z["labels_before0"])
    share = float(z["merge_percent"])
    yield equal("merges per round", int(len(ours) * share), merges)
    for step in range(3):
        features = torch.from_numpy(z[f"features{step}"])
        before = torch.from_numpy(z[f"labels_before{step}"])
        after = z[f"labels_after{step}"]
        yield equal(f"labels of round {step}", merge(features, before, merges, penalty), after)
        ours = merge(features, ours, merges, penalty)
        yield equal(f"labels of all rounds so far {step}", ours, after)
