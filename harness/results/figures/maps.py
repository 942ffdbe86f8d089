"""Draws activation maps of views over their images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from harness.results.figures.style import drawn, figure, fill, heading
from harness.results.palette import FAINT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@drawn
def draw(
    images: np.ndarray, maps: Mapping[str, np.ndarray], rows: Mapping[str, slice], title: str
) -> Figure:
    """Each image (N, H, W, 3), and beside it the map (N, h, w) of each view, bright where high.

    Args:
        rows: view → rows of the feature map that it pools.
    """
    height, width = images.shape[1:3]
    aspect, columns = height / width, 1 + len(maps)
    across = max(1, min(len(images), 9 // columns))  # images side by side
    lines = -(-len(images) // across)
    picture = figure(1.06 * columns * across, (aspect + 0.08) * lines + 0.7)
    grid = picture.subplots(lines, columns * across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, image in enumerate(images):
        line, column = divmod(i, across)
        panels = grid[line][column * columns : (column + 1) * columns]
        panels[0].imshow(image)
        if line == 0:
            for axes, view in zip(panels, ["image", *maps], strict=True):
                axes.set_title(view, fontsize=7.5, loc="center", color=FAINT)
        for axes, (view, values) in zip(panels[1:], maps.items(), strict=True):
            _overlay(axes, image, np.asarray(values[i]), rows[view])
    heading(picture, title)
    fill(picture, 0.7, wspace=0.06, hspace=0.08 / aspect)
    return picture


def _overlay(axes: Axes, image: np.ndarray, values: np.ndarray, rows: slice) -> None:
    """A map over a gray image, which is pale outside of the view's rows."""
    from matplotlib import colormaps

    height, width = image.shape[:2]
    seen = slice(round(height * rows.start / len(values)), round(height * rows.stop / len(values)))
    heat = over_pixels(values, height, width, rows)
    heat = heat / max(float(heat[seen].max()), 1e-12)
    gray = np.repeat((image @ np.array([0.299, 0.587, 0.114]))[..., None] / 255, 3, axis=2)
    strength = (0.15 + 0.6 * heat)[..., None]
    bright = (1 - strength) * gray + strength * colormaps["inferno"](heat)[..., :3]
    shown = 0.75 + 0.25 * gray
    shown[seen] = bright[seen]
    axes.imshow(shown.clip(0, 1))


def over_pixels(values: np.ndarray, height: int, width: int, rows: slice) -> np.ndarray:
    """A map (h, w) interpolated linearly to pixels (H, W), within the view's rows.

    Position j is centered on pixel j·H/h, not on (j + ½)·H/h: convolutions and pooling of stride 2
    with padding 1 are centered on every second pixel from the first.
    """
    h, w = values.shape
    y = np.clip(np.arange(height) * h / height, rows.start, rows.stop - 1)
    x = np.clip(np.arange(width) * w / width, 0, w - 1)
    lines = np.stack([np.interp(x, np.arange(w), line) for line in values])  # (h, W)
    columns = [np.interp(y, np.arange(h), column) for column in lines.T]
    return np.stack(columns, axis=1)
