"""Features in two dimensions, colored by pseudo-label and by identity, side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.core.errors import ConfigError
from harness.results.figures.style import MARKS, drawn, figure, heading, style
from harness.results.palette import FAINT, LIGHT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = {"tsne": "t-SNE", "umap": "UMAP"}
#: identities that colors and markers can distinguish
MAX_IDENTITIES = len(LIGHT) * len(MARKS)


@dataclass(frozen=True)
class Embedding:
    """Images of some identities in two dimensions.

    points: (N, 2). identities: (N,) numbered from 0. labels: (N,) pseudo-labels, −1 for outliers;
    None without a labeler. clusters, outliers: numbers in the whole training set.
    """

    points: np.ndarray
    identities: np.ndarray
    labels: np.ndarray | None
    clusters: int = 0
    outliers: int = 0
    labeler: str = ""


def project(features: np.ndarray, method: str, seed: int) -> np.ndarray:
    """Features (N, D) to points (N, 2).

    t-SNE: van der Maaten and Hinton, JMLR 2008, initialized by the principal components.

    Raises:
        ConfigError: UMAP is not installed.
    """
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            hint = "pip install umap-learn, or use --method tsne."
            raise ConfigError("UMAP is not installed.", hint) from error
        # with UMAP's default min_dist of 0.1, points of few images overlap
        made = UMAP(random_state=seed, metric="cosine", min_dist=0.6, spread=1.5, n_jobs=1)
        return np.asarray(made.fit_transform(features))
    from sklearn.manifold import TSNE

    perplexity = max(1.0, min(30.0, (len(features) - 1) / 3))
    return TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


def match_clusters(labels: np.ndarray, identities: np.ndarray) -> dict[int, tuple[int, bool]]:
    """Cluster → its most frequent identity, and whether no cluster has more images of that one."""
    clusters = np.unique(labels[labels >= 0])
    overlap = np.zeros((len(clusters), int(identities.max()) + 1), int)
    np.add.at(overlap, (np.searchsorted(clusters, labels[labels >= 0]), identities[labels >= 0]), 1)
    most, largest = overlap.argmax(1), overlap.argmax(0)
    return {
        int(label): (int(identity), bool(largest[identity] == row))
        for row, (label, identity) in enumerate(zip(clusters, most, strict=True))
    }


@drawn
def draw(embedding: Embedding, title: str) -> Figure:
    """Left: by cluster, in the style of its most frequent identity. Right: by identity.

    A point whose style differs between the two is in the wrong cluster.
    """
    both = embedding.labels is not None
    picture = figure(9.0 if both else 4.8, 4.9)
    panels = list(picture.subplots(1, 2 if both else 1, squeeze=False)[0])
    points, identities = embedding.points, embedding.identities
    if embedding.labels is not None:
        left, out = panels[0], embedding.labels < 0
        left.scatter(*points[out].T, s=14, marker="x", color=FAINT, linewidths=0.8)
        for label, (identity, main) in match_clusters(embedding.labels, identities).items():
            _points(left, points[embedding.labels == label], identity, main)
        left.set_title(f"by cluster ({embedding.clusters} in all, {embedding.outliers} outliers)")
        left.set_xlabel(
            "filled: the cluster with most images of an identity, in the style of the identity;\n"
            "hollow: a smaller cluster, mostly of that identity; ×: outlier",
            fontsize=7, color=FAINT, loc="left",
        )  # fmt: skip
    count = int(identities.max()) + 1
    for identity in range(count):
        _points(panels[-1], points[identities == identity], identity, True)
    panels[-1].set_title(f"by identity ({count} identities, {len(identities)} images)")
    for axes in panels:
        axes.set(xticks=[], yticks=[])
        axes.margins(0.05)
    heading(picture, title)
    picture.subplots_adjust(left=0.01, right=0.99, bottom=0.09, wspace=0.04, top=0.89)
    return picture


def _points(axes: Axes, points: np.ndarray, identity: int, filled: bool) -> None:
    color, marker = style(identity).values()
    face, edge = (color, "white") if filled else ("none", color)
    x, y = points.T
    axes.scatter(x, y, s=20, marker=marker, linewidths=0.9, facecolors=face, edgecolors=edge)
