"""Golden cases of distances, DBSCAN, the labels of MSKD, SpCL and BUC, and evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
from harness.components.labelers.timer import Timer
from harness.components.objectives.memory import centroids
from harness.conformance.cases import DISTANCE, Check, Vectors, case, close
from harness.conformance.schedules import mskd_schedules
from harness.evaluation.ground_truth import GroundTruth
from harness.evaluation.ranking import RankingResult, rank
from harness.evaluation.reranking import rerank_blocks


@case("jaccard_k20_k2_6", "jaccard_k30_k2_6")
def jaccard(z: Vectors) -> Iterator[Check]:
    """Neighbor lists and Jaccard distances from features, with and without query expansion."""
    features, k1, k2 = z.tensor("features"), int(z["k1"]), int(z["k2"])
    neighbors = nearest(features, k1)
    yield from z.equal("*", rank=neighbors)
    for key, expansion in (("dist", k2), ("dist_k2_1_first100", 1)):
        encoding = encode(features, neighbors, k1, expansion)
        rows = distance_rows([encoding], torch.arange(len(z[key])))
        yield from z.close(key, DISTANCE, rows=rows)


def _labels(distances: np.ndarray, eps: float, min_samples: int) -> np.ndarray:
    return dbscan(graph_of(distances, eps), eps, min_samples)


def graph_of(distances: np.ndarray, eps: float) -> csr_matrix:
    """The entries of a dense matrix that are at most eps, zeros included."""
    rows, columns = np.nonzero(distances <= eps)
    return csr_matrix((distances[rows, columns], (rows, columns)), shape=distances.shape)


def jaccard_dbscan(z: Vectors, prefix: str = "", **options: Any) -> Iterator[Check]:
    """First rows of the distance, and labels, of `features` (N, D), or (V, N, D) of several views.

    Args:
        options: those of the labeler besides k1, k2, eps and min_samples, which are in the file.
    """
    features = z.tensor(f"{prefix}features")
    features = features[:, None] if features.dim() == 2 else features.transpose(0, 1).contiguous()
    k1, k2, samples = (int(z[f"{prefix}{name}"]) for name in ("k1", "k2", "min_samples"))
    labeler = JaccardDBSCAN(
        eps=z.number(f"{prefix}eps"), min_samples=samples, k1=k1, k2=k2, **options
    )
    encodings = labeler.encodings(features, Timer(features))
    rows = torch.arange(len(z[f"{prefix}dist_first20"]))
    distances = distance_rows(encodings, rows, labeler.part_weight)
    yield from z.close(f"{prefix}*", DISTANCE, dist_first20=distances)
    yield from z.equal(f"{prefix}*", labels=labeler.label(features).labels)


@case("dbscan")
def clusterings(z: Vectors) -> Iterator[Check]:
    """Labels of small matrices with border points and distances equal to the radius."""
    samples = int(z["min_samples"])
    for k1 in (20, 30):  # for the distances of the neighboring files, if they are there
        path = z.folder / f"jaccard_k{k1}_k2_6.npz"
        for key in sorted(key for key in z if key.startswith(f"labels_k{k1}_eps")):
            if path.is_file():
                labels = _labels(Vectors(path)["dist"], int(key[-3:]) / 100, samples)
                yield from z.equal(key, labels=labels)
    for eps in ("015", "030"):  # border points
        labels = _labels(z["small_dist"], int(eps) / 100, samples)
        yield from z.equal(f"small_*_eps{eps}", labels=labels)
    for eps, minimum in (("025", 3), ("025", 4), ("050", 4)):  # distances equal to the radius
        labels = _labels(z["grid_dist"], int(eps) / 100, minimum)
        yield from z.equal(f"grid_*_eps{eps}_min{minimum}", labels=labels)


@case("mskd_pipeline")
def pipeline(z: Vectors) -> Iterator[Check]:
    """From three views' features to distances, labels and memories, and the schedules."""
    views = z.tensor("features")
    k1, k2, share = int(z["k1"]), int(z["k2"]), z.number("lambda1")
    encodings = [encode(view, nearest(view, k1), k1, k2) for view in views]
    for name, encoding in zip(("global", "upper", "lower"), encodings, strict=True):
        key = f"dist_{name}_first40"
        rows = distance_rows([encoding], torch.arange(len(z[key])))
        yield from z.close(key, DISTANCE, rows=rows)
    fused = distance_rows(encodings, torch.arange(views.shape[1]), share)
    features = views.transpose(0, 1).contiguous()
    labeler = JaccardDBSCAN(
        eps=z.number("eps"), min_samples=int(z["min_samples"]), k1=k1, k2=k2, part_weight=share
    )
    labels = labeler.label(features).labels
    yield from z.equal("*", labels=labels)
    means = centroids(features, labels)
    yield from z.close("*", DISTANCE, dist_combined=fused, centroids=means)
    yield from mskd_schedules(z)


@case("spcl_selfpaced")
def self_paced_labels(z: Vectors) -> Iterator[Check]:
    """Three epochs of SpCL's labels, from distances and from the authors' DBSCAN labels."""
    eps, gap, samples = z.number("eps"), z.number("eps_gap"), int(z["min_samples"])
    threshold = None
    for epoch, distances in enumerate(z["dist"]):
        radii = three_radii(graph_of(distances, eps + gap), eps, gap, samples)
        theirs = [z[f"epoch{epoch}_dbscan_{name}"] for name in ("normal", "tight", "loose")]
        yield close(f"epoch{epoch}_dbscan", np.stack(radii), np.stack(theirs))
        for labels in (radii, theirs):
            found = self_paced(labels[0], labels[1], labels[2], threshold)
            yield from z.equal(f"epoch{epoch}_*", labels=found.labels)
            if threshold is None:  # the published values were computed in float32
                yield from z.close("*", DISTANCE, first_epoch_cluster_R_indep=found.independence)
        threshold = found.threshold
        yield from z.close("*", DISTANCE, indep_thres=threshold)


@case("buc_merge")
def merging(z: Vectors) -> Iterator[Check]:
    """Three rounds of BUC's merging, each from the authors' labels and from our own."""
    penalty, merges = z.number("size_penalty"), int(z["nums_to_merge"])
    ours: Tensor = z.tensor("labels_before0")
    yield close("merges per round", int(len(ours) * z.number("merge_percent")), merges)
    for step in range(3):
        features, before = z.tensors(f"features{step}", f"labels_before{step}")
        ours = merge(features, ours, merges, penalty)
        for labels in (merge(features, before, merges, penalty), ours):
            yield from z.equal(f"*{step}", labels_after=labels)


@case("eval")
def evaluation(z: Vectors) -> Iterator[Check]:
    """Metrics from features and from re-ranked distances, and the distances themselves."""
    query, gallery = z.tensors("query_features", "gallery_features")
    truth = GroundTruth(z["query_ids"], z["gallery_ids"], z["query_cams"], z["gallery_cams"])
    yield from _metrics("", rank(query, gallery, truth), z)
    distances = [(0, z.tensor("rerank_dist"))]
    yield from _metrics("rerank_", rank(None, None, truth, distances=distances), z)
    settings = int(z["rerank_k1"]), int(z["rerank_k2"]), z.number("rerank_lambda")
    for key, kind in (("rerank_dist", "squared"), ("rerank_dist_from_euclidean", "euclidean")):
        blocks = rerank_blocks(query, gallery, *settings, distance=kind)
        yield from z.close(key, DISTANCE, rows=torch.cat([block for _, block in blocks]))
    reranked = rank(None, None, truth, distances=rerank_blocks(query, gallery, *settings))
    yield from z.close("*", 5e-7, rerank_mAP=reranked.mAP)


def _metrics(prefix: str, ours: RankingResult, z: Vectors) -> Iterator[Check]:
    curve = np.array([ours.cmc_at(k) for k in range(1, len(z[f"{prefix}cmc"]) + 1)])
    yield from z.close(f"{prefix}*", mAP=ours.mAP, ap_per_query=ours.ap, cmc=curve)
