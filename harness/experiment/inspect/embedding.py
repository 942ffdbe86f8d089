"""Projects the training features of some identities to two dimensions, with their pseudo-labels."""

from __future__ import annotations

import numpy as np

from harness.core.errors import ConfigError
from harness.experiment.inspect.trained_stage import TrainedStage
from harness.results.figures.embedding import MAX_IDENTITIES, METHODS, Embedding, project


def embed(
    stage: TrainedStage, method: str = "tsne", identities: int = 16, seed: int = 0
) -> Embedding:
    """The training images of random identities, by the features of the global view.

    The pseudo-labels are those of all training images by the stage's labeler, with the final
    network.

    Raises:
        ConfigError: no weights, unknown identities, or UMAP is not installed.
    """
    if not 2 <= identities <= MAX_IDENTITIES:
        raise ConfigError(f"--identities {identities} must be from 2 to {MAX_IDENTITIES}.")
    if method not in METHODS:
        raise ConfigError(f"--method {method} is unknown.", f"Known: {', '.join(METHODS)}.")
    stage.backbone  # noqa: B018 (refuse missing weights before images are decoded)
    evaluator = stage.training
    assert evaluator.train_cache is not None
    ground_truth = evaluator.data.train.identities
    kept = choose_identities(ground_truth, identities, seed)
    features = stage.features(evaluator.train_cache.images, "training")
    found = stage.labels(features)
    points = project(features[kept, 0].cpu().numpy(), method, seed)
    numbers = np.unique(ground_truth[kept], return_inverse=True)[1]
    if found is None:
        return Embedding(points, numbers, None)
    labels, description = found
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    labels = np.where(sizes[labels] < 2, -1, labels)  # a single image is no cluster
    outliers = int((labels < 0).sum())
    return Embedding(points, numbers, labels[kept], int((sizes > 1).sum()), outliers, description)


def choose_identities(identities: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of all images of `count` random identities with at least four images.

    Raises:
        ConfigError: the identities are not known.
    """
    names, sizes = np.unique(identities[identities >= 0], return_counts=True)
    names = names[sizes >= min(4, int(sizes.max(initial=0)))]
    if not len(names):
        raise ConfigError(
            "The identities of the training images are not known.",
            "Without them, clusters cannot be compared with identities.",
        )
    drawn = np.random.default_rng(seed).choice(names, min(count, len(names)), replace=False)
    return np.flatnonzero(np.isin(identities, drawn))
