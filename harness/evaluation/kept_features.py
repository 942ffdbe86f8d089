"""Test features stored with a run, so that it can be scored again without images or network.

`evaluation.keep_features=true` writes `STAGE_features.npz` into the run's folder: the features in
float16 (79 MB for Market-1501's 19,281 images of 2048 dimensions) and their ground truth. Image
names are replaced by numbers, equal where the names are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.core.arrays import read_npz
from harness.core.errors import DataError
from harness.core.files import write_atomically
from harness.evaluation.ground_truth import GroundTruth


@dataclass(frozen=True, eq=False)
class KeptFeatures:
    """Features (Q, D) and (G, D), float32 and L2-normalized, that were stored as float16."""

    query: Tensor
    gallery: Tensor
    ground_truth: GroundTruth
    fingerprint: str


def path_of(folder: Path, stage: str) -> Path:
    return folder / f"{stage}_features.npz"


def save(
    folder: Path, stage: str, query: Tensor, gallery: Tensor, truth: GroundTruth, fingerprint: str
) -> None:
    """Store the features (Q, D) and (G, D) that a stage was tested with."""
    arrays: dict[str, np.ndarray] = {
        "query": query.cpu().to(torch.float16).numpy(),
        "gallery": gallery.cpu().to(torch.float16).numpy(),
        "query_ids": np.asarray(truth.query_ids),
        "gallery_ids": np.asarray(truth.gallery_ids),
        "fingerprint": np.array(fingerprint),
    }
    for key in ("query_cams", "gallery_cams", "tracks"):
        if (values := getattr(truth, key)) is not None:
            arrays[key] = values
    if truth.query_names is not None and truth.gallery_names is not None:
        both = [*truth.query_names, *truth.gallery_names]
        numbers = np.unique(np.asarray(both), return_inverse=True)[1].astype(np.int32)
        arrays["query_names"] = numbers[: len(truth.query_names)]
        arrays["gallery_names"] = numbers[len(truth.query_names) :]
    write_atomically(path_of(folder, stage), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError for arrays that `save` does not write."""
    for side in ("query", "gallery"):
        features = arrays[side]
        if features.ndim != 2 or features.dtype != np.float16 or not features.size:
            raise ValueError(f"{side} is {features.dtype} of shape {features.shape}")
        optional = {f"{side}_cams", f"{side}_names"} & arrays.keys()
        for key in (f"{side}_ids", *optional):
            if arrays[key].shape != features.shape[:1] or arrays[key].dtype.kind not in "iu":
                raise ValueError(f"{key} does not hold an integer per image")
    if arrays["query"].shape[1] != arrays["gallery"].shape[1]:
        raise ValueError("query and gallery have another number of dimensions")
    if "tracks" in arrays:
        _check_tracks(arrays)


def _check_tracks(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError unless there is a track, from 0 without gaps, of one identity and camera for
    each gallery image.
    """
    tracks = arrays["tracks"]
    if tracks.shape != arrays["gallery_ids"].shape or tracks.dtype.kind not in "iu":
        raise ValueError("tracks do not hold an integer per gallery image")
    numbers, first = np.unique(tracks, return_index=True)
    if not np.array_equal(numbers, np.arange(len(numbers))):
        raise ValueError("tracks are not numbered from 0 without gaps")
    for key in {"gallery_ids", "gallery_cams"} & arrays.keys():
        if not np.array_equal(arrays[key], arrays[key][first][tracks]):
            raise ValueError(f"a track has several {key}")


def load(folder: Path, stage: str) -> KeptFeatures | None:
    """A stage's features; None if none were stored. Raises DataError if they cannot be read."""
    path = path_of(folder, stage)
    if not path.is_file():
        return None
    try:
        arrays = read_npz(path)
        _check(arrays)
        query, gallery = (
            F.normalize(torch.from_numpy(arrays[key].astype(np.float32)), dim=1)
            for key in ("query", "gallery")
        )
        names = [
            arrays[f"{side}_names"].astype(str).tolist() if f"{side}_names" in arrays else None
            for side in ("query", "gallery")
        ]
        truth = GroundTruth(
            arrays["query_ids"], arrays["gallery_ids"], arrays.get("query_cams"),
            arrays.get("gallery_cams"), names[0], names[1], arrays.get("tracks"),
        )  # fmt: skip
        return KeptFeatures(query, gallery, truth, str(arrays["fingerprint"]))
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}).",
            "Delete it; `harness eval RUN` then computes the features again.",
        ) from error
