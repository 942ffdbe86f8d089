"""Ranked lists: a query and the images that are nearest to it, right and wrong ones marked.

What is ranked is what the protocol ranks: without junk and without images of the query's identity
and camera (of data without cameras, without the query image itself).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.core.errors import ConfigError
from harness.evaluation.distances import Blocks, distance_blocks
from harness.evaluation.evaluator import Evaluator
from harness.experiment.figures.subject import Subject
from harness.results.figures.style import FAINT, INK, drawn, figure, fill, heading
from harness.results.palette import RIGHT, WRONG

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

CHOICES = ("worst", "best", "random")


@dataclass(frozen=True)
class Ranking:
    """A query and the first K of the gallery.

    query: its index. ap: average precision, 0 … 1. gallery: (K,) indices of images, nearest first.
    right: (K,) whether they show the query's identity.
    """

    query: int
    ap: float
    gallery: np.ndarray
    right: np.ndarray


def rankings(
    subject: Subject, queries: str = "worst", count: int = 8, top: int = 10, seed: int = 0
) -> list[Ranking]:
    """The first images for some queries.

    Args:
        queries: worst, best, random, or indices or names of query images, separated by commas.
        count: how many of worst, best, random. seed: of random.

    Raises:
        ConfigError: no test part, no weights, or no such query.
    """
    subject.backbone  # noqa: B018 (whose lack is told before images are looked for)
    evaluator = subject.test
    assert evaluator.query_cache is not None and evaluator.gallery_cache is not None
    query, gallery = (
        subject.features(image_cache.images, part, views=1)[:, 0]
        for part, image_cache in (
            ("query", evaluator.query_cache),
            ("gallery", evaluator.gallery_cache),
        )
    )
    ap = evaluator.score(query, gallery).ap
    chosen = choose(evaluator, ap, queries, count, seed)
    rows = _rows(evaluator, query, gallery, chosen)
    return [
        Ranking(index, float(ap[index]), *nearest(evaluator, index, rows[index], top))
        for index in chosen
    ]


def choose(evaluator: Evaluator, ap: np.ndarray, queries: str, count: int, seed: int) -> list[int]:
    """Indices of queries that have something to find, or of those that were named.

    Raises:
        ConfigError: there is no such query.
    """
    valid = np.flatnonzero(np.isfinite(ap))
    if queries == "random":
        drawn = np.random.default_rng(seed).choice(valid, min(count, len(valid)), replace=False)
        return [int(index) for index in drawn]
    if queries in CHOICES:
        order = valid[np.argsort(ap[valid], kind="stable")]
        order = order if queries == "worst" else order[::-1]
        return [int(index) for index in order[:count]]
    images = evaluator.data.query.images
    names = {images.name(i): i for i in range(len(images))}
    found = []
    for word in queries.split(","):
        if word in names:
            found.append(names[word])
        elif word.isdecimal() and int(word) < len(images):
            found.append(int(word))
        else:
            raise ConfigError(
                f"There is no query '{word}'.",
                f"Choose {', '.join(CHOICES)}, indices from 0 to {len(images) - 1}, or names of "
                f"query images, such as {images.name(0)}.",
            )
    return found


def _rows(
    evaluator: Evaluator, query: Tensor, gallery: Tensor, chosen: Sequence[int]
) -> dict[int, np.ndarray]:
    """Query → distances (G,) to all gallery images, re-ranked if the protocol says so."""
    blocks: Blocks
    if evaluator.protocol.rerank:
        from harness.evaluation.reranking import rerank_blocks

        blocks, places = rerank_blocks(query, gallery), {index: index for index in chosen}
    else:
        blocks = distance_blocks(query[list(chosen)], gallery)
        places = dict(enumerate(chosen))
    return dict(_picked(blocks, places))


def _picked(blocks: Blocks, places: dict[int, int]) -> Iterable[tuple[int, np.ndarray]]:
    for start, distances in blocks:
        for offset, row in enumerate(distances):
            if start + offset in places:
                yield places[start + offset], row.cpu().numpy()


def nearest(
    evaluator: Evaluator, query: int, distances: np.ndarray, top: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest gallery images that the protocol leaves, (K,), and whether they are right.

    Where tracks are ranked, one image a track: its nearest.
    """
    q, g = evaluator.data.query, evaluator.data.gallery
    same = g.identities == q.identities[query]
    removed = g.identities == -1
    if q.cameras is not None and g.cameras is not None:
        removed = removed | (same & (g.cameras == q.cameras[query]))
    else:
        name = q.images.name(query)
        removed = removed | np.array([g.images.name(i) == name for i in range(len(g.images))])
    order = np.argsort(np.where(removed, np.inf, distances), kind="stable")
    order = order[: len(order) - int(removed.sum())]
    if g.tracks is not None:
        _, first = np.unique(g.tracks[order], return_index=True)
        order = order[np.sort(first)]
    return order[:top], same[order[:top]]


@drawn
def draw(subject: Subject, found: Sequence[Ranking], title: str) -> Figure:
    """A row a query: the query, then what was found, ✓ in blue if right, ✗ in vermilion if not."""
    evaluator = subject.test
    assert evaluator.query_cache is not None and evaluator.gallery_cache is not None
    columns = 1 + max(len(ranking.gallery) for ranking in found)
    height, width = evaluator.query_cache.images.shape[1:3]
    tall = 0.74 * height / width  # of an image, in inches
    picture = figure(0.84 * columns, (tall + 0.42) * len(found) + 0.5)
    grid = picture.subplots(len(found), columns, squeeze=False)
    q, g = evaluator.data.query, evaluator.data.gallery
    for axes, ranking in zip(grid, found, strict=True):
        _image(axes[0], evaluator.query_cache.images[ranking.query], FAINT, "-")
        axes[0].set_title(f"AP {100 * ranking.ap:.1f}", color=INK, loc="center", fontsize=8)
        _below(axes[0], "query", None if q.cameras is None else int(q.cameras[ranking.query]))
        places = zip(axes[1:], ranking.gallery, ranking.right, strict=False)
        for rank, (place, image, right) in enumerate(places, start=1):
            colour, sign = (RIGHT, "✓") if right else (WRONG, "✗")
            _image(
                place,
                evaluator.gallery_cache.images[image],
                colour,
                "-" if right else (0, (2, 1.2)),
            )
            place.set_title(f"{rank} {sign}", color=colour, loc="center", fontsize=8)
            _below(place, "", None if g.cameras is None else int(g.cameras[image]))
        for place in axes[1 + len(ranking.gallery) :]:
            place.set_axis_off()
    heading(picture, f"{title}\n✓ solid frame: the same person. ✗ dashed frame: another.")
    fill(picture, 0.62, wspace=0.13, hspace=0.42 / tall)
    return picture


def _image(axes: Axes, image: np.ndarray, colour: str, line: object) -> None:
    axes.imshow(image)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=2.2, linestyle=line)


def _below(axes: Axes, what: str, camera: int | None) -> None:
    words = [what] if what else []
    words += [f"cam {camera + 1}"] if camera is not None else []
    axes.set_xlabel(", ".join(words), fontsize=6.5, color=FAINT, labelpad=2.5)
