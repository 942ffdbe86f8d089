"""`harness label`: pseudo-labels for anybody's features, without a data set or a training."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.core.errors import ConfigError, DataError
from harness.core.files import write_atomically
from harness.core.interfaces import PseudoLabeler
from harness.experiment.standalone.arrays import ArrayFile
from harness.experiment.standalone.features import feature_shape, read_features
from harness.experiment.standalone.labeler_conf import make_labeler
from harness.experiment.standalone.report import Report, check_output, make_output_folder


def label_features(
    features: str,
    changes: Sequence[str] = (),
    *,
    out: str,
    cams: str | None = None,
    device: str = "auto",
    threads: int = 0,
    force: bool = False,
    json: bool = False,
) -> dict[str, Any]:
    """Label the images of a feature file, print what came out, and write the labels.

    Args:
        features: an .npy, or an .npz with an array `features`, of (N, D) or (N, V, D) floats; rows
            that are not L2-normalised are normalised, per view.
        changes: `labeler=NAME`, `labeler.KEY=VALUE`.
        out: the .npy to write: (N,) int64, -1 for outliers.
        cams: an .npy, or an .npz with `cams`, of (N,) integers, for labelers that use cameras.
        device, threads: `auto`, `cpu` or `cuda`; CPU threads, 0 for all.
        force: overwrite `out`.
        json: print one JSON object, and notes on stderr.

    Returns:
        What `json` prints: images, views, clusters, outliers, largest_cluster, statistics of the
        labeler, seconds, peak memory.

    Raises:
        ConfigError, DataError: bad options or files, before any work.
        HarnessError: the labeler gives up.
    """
    target = Path(out).expanduser()
    name, labeler = make_labeler(changes)
    report = Report(device, threads, json)
    source = ArrayFile(features)
    cameras_from = None if cams is None else ArrayFile(cams)
    inputs = {
        "the feature file": source.path,
        "the file of cameras": cameras_from.path if cameras_from else None,
    }
    check_output("--out", target, ".npy", force, inputs)
    n, views, d = feature_shape(source.header("features"))
    _check_neighbours(labeler, n)
    used = _views_used(labeler, views)
    cameras = None if cameras_from is None else cameras_from.integers("cams", n)
    if labeler.uses_cameras and cameras is None:
        raise ConfigError(f"labeler {name} needs cameras.", "Give them: --cams CAMS.npy.")
    make_output_folder("--out", target)

    shown = f"{n} images, {views} view{'s' if views > 1 else ''} of {d}"
    report.say(f"{shown}; {name}: {labeler.describe()}; {report.where()}")
    if used < views:
        report.say("Only view 0 is looked at; labeler.part_weight=0.15, say, takes in the others.")
    if cameras is not None and not labeler.uses_cameras:
        report.say(f"The cameras are not looked at: {name} does not use any.")
        cameras = None
    with report.stage("read"):
        read = read_features(source, views=used)
        if read.note:
            report.say(read.note)
        mib, values = read.mib, read.values.to(report.device)
        del read  # on a GPU, the host's copy is not needed any more
    with report.stage("all"):
        given = None if cameras is None else torch.from_numpy(cameras).to(report.device)
        answer = labeler.label(values, given)
    labels = answer.labels.numpy().astype(np.int64, copy=False)
    stats = dict(answer.stats)
    labelling = report.seconds.pop("all")
    for key in [key for key in stats if key.startswith("seconds_")]:
        report.seconds[key.removeprefix("seconds_")] = stats.pop(key)
    report.seconds["all"] = report.seconds["read"] + labelling
    write_atomically(target, lambda file: np.save(file, labels))

    sizes = np.bincount(labels[labels >= 0])
    result: dict[str, Any] = {
        "labels": str(target),
        "labeler": {"name": name, "settings": labeler.describe()},
        "images": n,
        "views": views,
        "dimensions": d,
        **stats,
        "clusters": len(sizes),
        "outliers": int((labels < 0).sum()),
        "largest_cluster": int(sizes.max(initial=0)),
        **report.costs(mib),
    }
    if json:
        print(jsonlib.dumps(result, allow_nan=False))
        return result
    if name == "bottom_up":
        report.say("This is bottom_up's first round: every image is a cluster of its own.")
    elif result["clusters"] <= 1:
        report.say("One cluster or none: is labeler.eps right, or have the features collapsed?")
    report.say(f"clusters  {result['clusters']}")
    report.say(f"outliers  {result['outliers']} ({result['outliers'] / n:.1%})")
    report.say(f"largest   {result['largest_cluster']} images")
    report.say_costs(mib)
    report.say(f"labels    {target}")
    return result


def _check_neighbours(labeler: PseudoLabeler, images: int) -> None:
    k1 = getattr(labeler, "k1", None)
    if isinstance(k1, int) and images < k1:
        raise DataError(
            f"{images} images are too few for labeler.k1={k1} neighbours.",
            f"Use more images, or labeler.k1={images} or less (and labeler.k2 no larger).",
        )
    clusters = getattr(labeler, "clusters", None)
    if isinstance(clusters, int) and images < clusters:
        raise DataError(
            f"{images} images cannot make labeler.clusters={clusters} clusters.",
            f"Use more images, or labeler.clusters={images} or less.",
        )


def _views_used(labeler: PseudoLabeler, views: int) -> int:
    """How many views the labeler looks at: one if it fuses views, but with weight 0."""
    weight = getattr(labeler, "part_weight", None)
    if weight == 0:
        return 1
    if weight is not None and views == 1:
        raise ConfigError(
            f"labeler.part_weight={weight:g} fuses views, but the features have only one.",
            "Leave it out, or bring (N, V, D) features.",
        )
    if weight is not None and (views - 1) * weight >= 1:
        raise ConfigError(
            f"{views - 1} parts of weight {weight:g} leave nothing to the global view.",
            f"Use a labeler.part_weight below {1 / (views - 1):g}.",
        )
    return views
