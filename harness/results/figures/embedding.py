"""Features in the plane, coloured by pseudo-label and by identity, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.core.errors import ConfigError
from harness.experiment.figures.subject import Subject
from harness.results.figures.style import FAINT, MARKS, drawn, figure, heading, style
from harness.results.palette import LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = ("tsne", "umap")
#: people that colours and marks tell apart
MOST = len(LIGHT) * len(MARKS)


@dataclass(frozen=True)
class Embedding:
    """Images of some people in the plane.

    points: (N, 2). people: (N,) from 0, numbers of their identities. labels: (N,) pseudo-labels, -1
    for outliers; None where nothing labels. clusters, outliers: of the whole training set.
    """

    points: np.ndarray
    people: np.ndarray
    labels: np.ndarray | None
    clusters: int = 0
    outliers: int = 0
    labeler: str = ""


def embed(subject: Subject, method: str = "tsne", identities: int = 16, seed: int = 0) -> Embedding:
    """The training images of some people, drawn from `seed`, by the global view's features.

    Labels are those that the stage's labeler gives all training images as the network sees them
    now. t-SNE: van der Maaten and Hinton, JMLR 2008, from the principal components.

    Raises:
        ConfigError: no weights, identities that are not known, UMAP that is not installed.
    """
    if not 2 <= identities <= MOST:
        raise ConfigError(f"--identities {identities} must be from 2 to {MOST}.")
    if method not in METHODS:
        raise ConfigError(f"--method {method} is unknown.", f"Known: {', '.join(METHODS)}.")
    subject.backbone  # noqa: B018 (whose lack is told before images are looked for)
    evaluator = subject.training
    assert evaluator.train_cache is not None
    truth = evaluator.data.train.identities
    kept = people(truth, identities, seed)
    features = subject.features(evaluator.train_cache.images, "training")
    found = subject.labels(features)
    points = plane(features[kept, 0].cpu().numpy(), method, seed)
    numbers = np.unique(truth[kept], return_inverse=True)[1]
    if found is None:
        return Embedding(points, numbers, None)
    labels, words = found
    sizes = np.bincount(labels[labels >= 0]) if (labels >= 0).any() else np.zeros(0, int)
    alone = (labels >= 0) & (sizes[labels] < 2)  # a label of one image is no cluster
    labels = np.where(alone, -1, labels)
    outliers = int((labels < 0).sum())
    return Embedding(points, numbers, labels[kept], int((sizes > 1).sum()), outliers, words)


def people(truth: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of all images of so many identities that have four images or more.

    Raises:
        ConfigError: there are none.
    """
    names, sizes = np.unique(truth[truth >= 0], return_counts=True)
    names = names[sizes >= min(4, int(sizes.max(initial=0)))]
    if not len(names):
        raise ConfigError(
            "The identities of the training images are not known.",
            "Without them there is nothing to compare clusters with.",
        )
    drawn = np.random.default_rng(seed).choice(names, min(count, len(names)), replace=False)
    return np.flatnonzero(np.isin(truth, drawn))


def plane(features: np.ndarray, method: str, seed: int) -> np.ndarray:
    """Features (N, D) to points (N, 2).

    Raises:
        ConfigError: UMAP is not installed.
    """
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise ConfigError(
                "UMAP is not installed.", "pip install umap-learn, or use --method tsne."
            ) from error
        # few images lie on top of each other with UMAP's own min_dist of 0.1
        made = UMAP(random_state=seed, metric="cosine", min_dist=0.6, spread=1.5, n_jobs=1)
        return np.asarray(made.fit_transform(features))
    from sklearn.manifold import TSNE

    perplexity = max(1.0, min(30.0, (len(features) - 1) / 3))
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def matched(labels: np.ndarray, people: np.ndarray) -> dict[int, tuple[int, bool]]:
    """Cluster → the person that most of its images here show, and whether it is the cluster that
    holds most of that person's images.
    """
    found = {}
    overlap = {
        int(label): np.bincount(people[labels == label], minlength=int(people.max()) + 1)
        for label in np.unique(labels[labels >= 0])
    }
    for label, counts in overlap.items():
        person = int(counts.argmax())
        largest = max(overlap, key=lambda other: (overlap[other][person], -other))
        found[label] = (person, largest == label)
    return found


@drawn
def draw(embedding: Embedding, title: str) -> Figure:
    """Left: by cluster, in the look of the person that a cluster mostly shows, so that what looks
    otherwise on the right is in the wrong cluster. Right: by identity.
    """
    both = embedding.labels is not None
    picture = figure(9.0 if both else 4.8, 4.9)
    panels = list(picture.subplots(1, 2 if both else 1, squeeze=False)[0])
    if embedding.labels is not None:
        left = panels[0]
        known = matched(embedding.labels, embedding.people)
        out = embedding.labels < 0
        left.scatter(
            embedding.points[out, 0],
            embedding.points[out, 1],
            s=14,
            marker="x",
            color=FAINT,
            linewidths=0.8,
        )
        for label, (person, main) in known.items():
            _points(left, embedding.points[embedding.labels == label], person, main)
        left.set_title(f"by cluster ({embedding.clusters} in all, {embedding.outliers} outliers)")
        left.set_xlabel(
            "filled: the cluster with most of a person’s images, in that person’s look;\n"
            "hollow: another cluster, mostly of that person; ×: no cluster",
            fontsize=7, color=FAINT, loc="left",
        )  # fmt: skip
    count = int(embedding.people.max()) + 1
    for person in range(count):
        _points(panels[-1], embedding.points[embedding.people == person], person, True)
    panels[-1].set_title(f"by identity ({count} people, {len(embedding.people)} images)")
    for axes in panels:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.margins(0.05)
    heading(picture, title)
    picture.subplots_adjust(left=0.01, right=0.99, bottom=0.09, wspace=0.04, top=0.89)
    return picture


def _points(axes: Axes, points: np.ndarray, person: int, filled: bool) -> None:
    look = style(person)
    colour = look["color"]
    axes.scatter(
        points[:, 0], points[:, 1], s=20, marker=look["marker"], linewidths=0.9,
        facecolors=colour if filled else "none", edgecolors="white" if filled else colour,
    )  # fmt: skip
