"""k-means, by faiss where it is installed and by scikit-learn elsewhere."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from harness.components.labelers.timer import Timer
from harness.core.errors import ConfigError, HarnessError, say_once
from harness.core.interfaces import PseudoLabeler, PseudoLabels, check_features

_MAX_INT = (1 << 31) - 1  # of faiss


@dataclass(eq=False, repr=False, kw_only=True)
class KMeans(PseudoLabeler):
    """k-means with a fixed number of clusters, the labels of MMT's k-means variant and others.

    Ge, Chen, Li, *Mutual Mean-Teaching*, ICLR 2020, has 500, 700 or 900 clusters for Market-1501.
    There are no outliers. Empty clusters are left out, so there can be fewer clusters than
    requested. Equal features give equal labels, but the labels of faiss and scikit-learn differ,
    since they start and stop differently; the statistics say which was used.
    """

    clusters: Annotated[int, Field(ge=2, le=_MAX_INT, description="number of clusters")] = 500
    iterations: Annotated[int, Field(ge=1, le=_MAX_INT, description="at most, per run")] = 50
    restarts: Annotated[int, Field(ge=1, le=_MAX_INT, description="runs; the best counts")] = 1
    seed: Annotated[int, Field(ge=0, le=_MAX_INT, description="seed of all epochs")] = 0
    spherical: Annotated[bool, Field(description="normalize the centers; needs faiss")] = False
    views: Annotated[
        Literal["global", "mean"],
        Field(description="the global view, or the normalized mean of all views"),
    ] = "global"

    def __post_init__(self) -> None:
        if self.spherical and _faiss() is None:
            raise ConfigError(
                "Spherical k-means needs faiss, which cannot be imported.",
                "Install faiss, or set labeler.spherical=false.",
            )
        self.min_images = self.clusters

    @classmethod
    def uses_parts(cls, options: Mapping[str, Any]) -> bool:
        return options.get("views") == "mean"

    def max_clusters(self, images: int) -> int:
        return self.clusters

    def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
        """Statistics: clusters, outliers (0), faiss (1 or 0) and the seconds.

        Raises:
            HarnessError: fewer images than clusters, or what `check_features` raises.
        """
        check_features(features)
        if len(features) < self.clusters:
            raise HarnessError(
                f"{len(features)} images cannot form {self.clusters} clusters.",
                f"Use labeler.clusters={len(features)} or fewer, or more images.",
            )
        timer = Timer(features)
        view = features[:, 0]
        if self.views == "mean":
            view = torch.nn.functional.normalize(features.mean(dim=1), dim=-1)
        x = np.ascontiguousarray(view.detach().float().cpu().numpy())
        faiss = _faiss()
        found = (
            self._with_faiss(faiss, x, features.is_cuda) if faiss else self._with_scikit_learn(x)
        )
        numbers, labels = np.unique(found, return_inverse=True)  # without empty clusters
        timer.lap("cluster")
        stats = {"clusters": len(numbers), "outliers": 0, "faiss": int(faiss is not None)}
        return PseudoLabels(torch.from_numpy(labels.astype(np.int64)), stats | timer.seconds)

    def describe(self) -> str:
        text = f"{self.clusters} clusters, {self.iterations} iterations, {self.restarts} restarts"
        return f"{text}, {self.views} view" + (", spherical" if self.spherical else "")

    def hint(self, labels: PseudoLabels) -> str:
        images = len(labels.labels)
        if labels.clusters < self.clusters:
            return (
                f"Only {labels.clusters} of {self.clusters} clusters have images: the features "
                "have collapsed, and labeler.clusters does not matter."
            )
        if self.clusters < images:
            return f"Raise labeler.clusters (up to {images}, the number of images)."
        return f"Each of the {images} images has its own cluster already: use more images."

    def _with_faiss(self, faiss: ModuleType, x: np.ndarray, gpu: bool) -> np.ndarray:
        """Cluster numbers (N,), of which some may not occur."""
        say_once(f"k-means by faiss {faiss.__version__}")
        runs = faiss.Kmeans(
            x.shape[1], self.clusters, niter=self.iterations, nredo=self.restarts, seed=self.seed,
            spherical=self.spherical, gpu=gpu and faiss.get_num_gpus() > 0,
            # use all images, and do not warn about few images per cluster
            min_points_per_centroid=1, max_points_per_centroid=len(x),
        )  # fmt: skip
        runs.train(x)
        return runs.index.search(x, 1)[1][:, 0]

    def _with_scikit_learn(self, x: np.ndarray) -> np.ndarray:
        """Cluster numbers (N,), of which some may not occur."""
        say_once("k-means by scikit-learn, as faiss cannot be imported; their labels differ")
        from sklearn.cluster import KMeans as ScikitKMeans  # slow to import
        from sklearn.exceptions import ConvergenceWarning

        runs = ScikitKMeans(
            self.clusters, n_init=self.restarts, max_iter=self.iterations, random_state=self.seed
        )
        with warnings.catch_warnings():  # empty clusters are left out
            warnings.simplefilter("ignore", ConvergenceWarning)
            return runs.fit_predict(x)


def _faiss() -> ModuleType | None:
    """The faiss module, or None where it cannot be imported."""
    try:
        return importlib.import_module("faiss")
    except Exception:  # a broken build raises more than ImportError
        return None
