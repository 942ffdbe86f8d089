"""Golden cases of distances, DBSCAN, and the labels of MSKD, SpCL and BUC."""

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
from harness.conformance.cases import DISTANCE, Check, Vectors, case, equal
from harness.conformance.schedules import mskd_schedules


def _jaccard(z: Vectors) -> Iterator[Check]:
    """Neighbor lists and Jaccard distances from features, with and without query expansion."""
    features, k1, k2 = z.tensor("features"), int(z["k1"]), int(z["k2"])
    yield z.equal("neighbor lists", nearest(features, k1), "rank")
    for name, expansion, key in (
        ("distance", k2, "dist"), ("distance, k2 = 1", 1, "dist_k2_1_first100"),
    ):  # fmt: skip
        encoding = encode(features, nearest(features, k1), k1, expansion)
        rows = distance_rows([encoding], torch.arange(len(z[key])))
        yield z.close(name, rows, key, DISTANCE)


for _name in ("jaccard_k20_k2_6", "jaccard_k30_k2_6"):
    case(_name)(_jaccard)


def _labels(distances: np.ndarray, eps: float, min_samples: int) -> np.ndarray:
    return dbscan(_graph(distances, eps), eps, min_samples)


def _graph(distances: np.ndarray, eps: float) -> csr_matrix:
    """The entries of a dense matrix that are at most eps, zeros included."""
    rows, columns = np.nonzero(distances <= eps)
    return csr_matrix((distances[rows, columns], (rows, columns)), shape=distances.shape)


@case("dbscan")
def clusterings(z: Vectors) -> Iterator[Check]:
    """Labels of small matrices with border points and distances equal to the radius."""
    samples = int(z["min_samples"])
    for k1 in (20, 30):  # for the distances of the neighboring files
        other = z.neighbor(f"jaccard_k{k1}_k2_6")
        for key in sorted(key for key in z if key.startswith(f"labels_k{k1}_eps")):
            if other is not None:
                ours = _labels(other["dist"], int(key[-3:]) / 100, samples)
                yield z.equal(f"k1 = {k1}, eps 0.{key[-2:]}", ours, key)
    for eps in ("015", "030"):
        ours = _labels(z["small_dist"], int(eps) / 100, samples)
        yield z.equal(f"border points, eps 0.{eps[1:]}", ours, f"small_labels_eps{eps}")
    for eps, minimum in (("025", 3), ("025", 4), ("050", 4)):
        ours = _labels(z["grid_dist"], int(eps) / 100, minimum)
        name = f"on the radius, eps 0.{eps[1:]}, {minimum} samples"
        yield z.equal(name, ours, f"grid_labels_eps{eps}_min{minimum}")


@case("mskd_pipeline")
def pipeline(z: Vectors) -> Iterator[Check]:
    """From three views' features to distances, labels and memories, and the schedules."""
    views = z.tensor("features")
    k1, k2, share = int(z["k1"]), int(z["k2"]), z.number("lambda1")
    encodings = [encode(view, nearest(view, k1), k1, k2) for view in views]
    for name, encoding in zip(("global", "upper", "lower"), encodings, strict=True):
        key = f"dist_{name}_first40"
        rows = distance_rows([encoding], torch.arange(len(z[key])))
        yield z.close(f"distance, {name}", rows, key, DISTANCE)
    fused = distance_rows(encodings, torch.arange(views.shape[1]), share)
    yield z.close("distance, fused", fused, "dist_combined", DISTANCE)
    features = views.transpose(0, 1).contiguous()
    labeler = JaccardDBSCAN(
        eps=z.number("eps"), min_samples=int(z["min_samples"]), k1=k1, k2=k2, part_weight=share
    )
    labels = labeler.label(features).labels
    yield z.equal("labels", labels, "labels")
    yield z.close("centroids", centroids(features, labels), "centroids", DISTANCE)
    yield from mskd_schedules(z)


@case("spcl_selfpaced")
def self_paced_labels(z: Vectors) -> Iterator[Check]:
    """Three epochs of SpCL's labels, from distances and from the authors' DBSCAN labels."""
    eps, gap, samples = z.number("eps"), z.number("eps_gap"), int(z["min_samples"])
    threshold = None
    for epoch, distances in enumerate(z["dist"]):
        radii = three_radii(_graph(distances, eps + gap), eps, gap, samples)
        theirs = [z[f"epoch{epoch}_dbscan_{name}"] for name in ("normal", "tight", "loose")]
        yield equal(f"DBSCAN at three radii {epoch}", np.stack(radii), np.stack(theirs))
        for source, labels in (("distances", radii), ("DBSCAN labels", theirs)):
            found = self_paced(labels[0], labels[1], labels[2], threshold)
            yield z.equal(f"labels from {source} {epoch}", found.labels, f"epoch{epoch}_labels")
            if threshold is None:  # the published values were computed in float32
                key = "first_epoch_cluster_R_indep"
                yield z.close("R_indep of clusters", found.independence, key, DISTANCE)
        threshold = found.threshold
        yield z.close(f"threshold {epoch}", threshold, "indep_thres", DISTANCE)


@case("buc_merge")
def merging(z: Vectors) -> Iterator[Check]:
    """Three rounds of BUC's merging, each from the authors' labels and from our own."""
    penalty, merges = z.number("size_penalty"), int(z["nums_to_merge"])
    ours: Tensor = z.tensor("labels_before0")
    yield equal("merges per round", int(len(ours) * z.number("merge_percent")), merges)
    for step in range(3):
        features, before = z.tensors(f"features{step}", f"labels_before{step}")
        key = f"labels_after{step}"
        after = merge(features, before, merges, penalty)
        yield z.equal(f"labels of round {step}", after, key)
        ours = merge(features, ours, merges, penalty)
        yield z.equal(f"labels of all rounds so far {step}", ours, key)
