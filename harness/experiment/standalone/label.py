"""Pseudo-labels for features from elsewhere: what `harness label` and notebooks call."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from harness.core.errors import ConfigError, DataError
from harness.core.interfaces import PseudoLabeler
from harness.experiment.compose import compose
from harness.experiment.stages import build, target_of
from harness.experiment.standalone.features import feature_shape, unit_features
from harness.experiment.standalone.report import stage


@dataclass(frozen=True)
class Labelling:
    """Labels (N,) int64, -1 for outliers, and how they were made.

    statistics: those of the labeler. seconds: by step. notes: what a user should know. mib: size of
    the features.
    """

    labels: np.ndarray
    statistics: dict[str, Any]
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)
    mib: float = 0.0

    @property
    def sizes(self) -> np.ndarray:
        """(K,) images of each cluster."""
        return np.bincount(self.labels[self.labels >= 0])

    @property
    def outliers(self) -> int:
        """Number of images without a cluster."""
        return int((self.labels < 0).sum())


def make_labeler(*overrides: str, **options: Any) -> tuple[str, PseudoLabeler]:
    """A labeler and its name, from overrides as in `harness run`, and from keywords.

    Args:
        overrides: `labeler=NAME`, `labeler.KEY=VALUE`, `neighbours.KEY=VALUE`.
        options: `labeler=NAME`, and its options as `KEY=VALUE`.

    Raises:
        ConfigError: there is no such labeler or option, or the value is out of range.
    """
    chosen = [f"labeler={options.pop('labeler')}"] if "labeler" in options else []
    keywords = [f"labeler.{key}={json.dumps(_plain(value))}" for key, value in options.items()]
    overrides = (*overrides, *chosen, *keywords)
    config = compose(overrides, "label", with_hydra=True)
    name = str(config.hydra.runtime.choices.labeler)
    if config.labeler.get("_target_") is None:
        raise ConfigError(f"labeler={name} makes no labels.", "See harness list labelers.")
    target_of(config.labeler._target_, "labeler")
    return name, build(config.labeler, "labeler")


def _plain(value: Any) -> Any:
    """Scalars and arrays of numpy as Python's."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def label(
    features: np.ndarray,
    labeler: PseudoLabeler | None = None,
    *,
    cameras: np.ndarray | None = None,
    device: str | torch.device = "cpu",
    where: str = "features",
) -> Labelling:
    """Pseudo-labels of features.

    Args:
        features: (N, D) or (N, V, D) floats. Rows that are not L2-normalized are normalized, per
            view; the array is not changed.
        labeler: from `make_labeler`; default: DBSCAN on Jaccard distances with its usual settings.
        cameras: (N,) integers, for labelers that use cameras.
        where: the name of the features in messages.

    Raises:
        ConfigError, DataError: the labeler does not fit the features.
        HarnessError: the labeler fails.
    """
    labeler = labeler or make_labeler()[1]
    n, views, _ = feature_shape(features, where)
    check_labeler(labeler, n, cameras)
    used = 1 if getattr(labeler, "part_weight", None) == 0 else views
    notes = []
    if used < views:
        notes.append("Only view 0 is used; labeler.part_weight=0.15, say, adds the part views.")
    if cameras is not None and not labeler.uses_cameras:
        notes.append(f"The cameras are not used: {type(labeler).__name__} needs none.")
        cameras = None
    seconds: dict[str, float] = {}
    with stage("read", seconds, device):
        read = unit_features(features, where, used)
        notes += [read.note] if read.note else []
        mib, values = read.mib, read.values.to(device)
        del read  # on a GPU, the host's copy is no longer needed
    with stage("all", seconds, device):
        given = None if cameras is None else torch.from_numpy(cameras).to(device)
        made = labeler.label(values, given)
    if made.clusters <= 1:
        notes.append(f"There is at most one cluster. {labeler.hint(made)}")
    total = seconds["read"] + seconds.pop("all")
    statistics = {key: value for key, value in made.stats.items() if not key.startswith("seconds_")}
    parts = {k.removeprefix("seconds_"): v for k, v in made.stats.items() if k not in statistics}
    seconds |= parts | {"all": total}
    labels = made.labels.numpy().astype(np.int64, copy=False)
    return Labelling(labels, statistics, seconds, notes, mib)


def check_labeler(labeler: PseudoLabeler, images: int, cameras: np.ndarray | None) -> None:
    """Refuse too few images, and missing cameras, before any work."""
    name = type(labeler).__name__
    if images < labeler.min_images:
        raise DataError(
            f"{images} images are too few: {name} ({labeler.describe()}) needs "
            f"{labeler.min_images}.",
            "Use more images, or change the settings of the labeler.",
        )
    if labeler.uses_cameras and cameras is None:
        raise ConfigError(f"{name} needs cameras.", "Add --cams CAMS.npy.")
