"""Ranked lists: each query with its nearest gallery images, correct and wrong matches marked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.results.figures.style import drawn, figure, fill, heading
from harness.results.palette import FAINT, INK, RIGHT, WRONG

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: characters of a file name below an image
NAME_LENGTH = 17


@dataclass(frozen=True)
class Ranking:
    """A query and its nearest gallery images.

    query: index. ap: average precision, 0 … 1. first_match: rank of the first correct match, from
    1, be it beyond these images. gallery: (K,) indices, nearest first. right: (K,) whether they
    show the query's identity.
    """

    query: int
    ap: float
    first_match: int
    gallery: np.ndarray
    right: np.ndarray


@dataclass(frozen=True)
class Images:
    """The images of a split: (N, H, W, 3), the file name of each, and camera ids (N,) if known."""

    pixels: np.ndarray
    name: Callable[[int], str]
    cameras: np.ndarray | None


@drawn
def draw(query: Images, gallery: Images, found: Sequence[Ranking], title: str) -> Figure:
    """A row for each query: the query, then its list, ✓ in blue if correct, ✗ in vermilion if not.

    Below each image stand its file name and camera.
    """
    columns = 1 + max(len(ranking.gallery) for ranking in found)
    height, width = query.pixels.shape[1:3]
    image_height = 0.84 * height / width  # inches
    space = 0.58  # inches between rows, for text
    picture = figure(0.94 * columns, (image_height + space) * len(found) + 0.6)
    grid = picture.subplots(len(found), columns, squeeze=False)
    for row, ranking in zip(grid, found, strict=True):
        _image(row[0], query, ranking.query, FAINT, "-")
        text = f"AP {100 * ranking.ap:.1f}\nfirst ✓ at {ranking.first_match}"
        row[0].set_title(text, color=INK, loc="center", fontsize=7.5)
        pairs = zip(row[1:], ranking.gallery, ranking.right, strict=False)
        for rank, (axes, image, right) in enumerate(pairs, start=1):
            color, sign, line = (RIGHT, "✓", "-") if right else (WRONG, "✗", (0, (2, 1.2)))
            _image(axes, gallery, int(image), color, line)
            axes.set_title(f"{rank} {sign}", color=color, loc="center", fontsize=8)
        for axes in row[1 + len(ranking.gallery) :]:
            axes.set_axis_off()
    heading(
        picture,
        f"{title}\n✓ solid frame: the query’s identity. ✗ dashed frame: another identity.\n"
        "Left: the query, its average precision, and the rank of its first correct match.",
    )
    fill(picture, 0.86, wspace=0.12, hspace=space / image_height)
    return picture


def _image(axes: Axes, images: Images, index: int, color: str, line: object) -> None:
    axes.imshow(images.pixels[index])
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, color=color, linewidth=2.2, linestyle=line)
    name, half = images.name(index).rsplit("/", 1)[-1], NAME_LENGTH // 2
    if len(name) > NAME_LENGTH:
        name = f"{name[:half]}…{name[-half:]}"
    camera = "" if images.cameras is None else f"\ncam {int(images.cameras[index]) + 1}"
    axes.set_xlabel(name + camera, fontsize=5.5, color=FAINT, labelpad=2.5)
