"""Random crops resized to the whole image: the augmentation of BUC (Lin et al., AAAI 2019).

A crop of random area and aspect ratio is scaled up bilinearly to the image size. Integer arithmetic
makes the result bit-identical on all devices.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from harness.core.seeds import uniform

TRIES = 10  # to draw a crop that fits, after which the whole image is used
SCALE = 1 << 15  # of integer weights; 255 times as much fits into 32 bits


def draw_crops(
    batch: int, size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Top, left, height and width of a crop of each of B images of `size` (H, W): (B, 4) int64.

    The crop's area ÷ H·W and its height ÷ width are uniform in the ranges `area` and `aspect`, and
    drawn again if the crop does not fit.
    """
    height, width = size
    areas = (area[0] + (area[1] - area[0]) * uniform(generator, batch, TRIES)) * (height * width)
    aspects = aspect[0] + (aspect[1] - aspect[0]) * uniform(generator, batch, TRIES)
    h, w = np.rint(np.sqrt(areas * aspects)), np.rint(np.sqrt(areas / aspects))
    fits = (h <= height) & (w <= width) & (h >= 1) & (w >= 1)
    first = np.arange(batch), fits.argmax(axis=1)
    lengths = np.stack((h[first], w[first]), axis=1)
    lengths = np.where(fits[first][:, None], lengths, (height, width))
    starts = np.floor(uniform(generator, batch, 2) * ((height, width) - lengths + 1))
    return torch.from_numpy(np.concatenate((starts, lengths), axis=1).astype(np.int64))


def resized_crops(images: Tensor, rows: Tensor, crops: Tensor) -> Tensor:
    """Crops (B, 4) of the `rows` (B,) of an image cache, scaled up to its size: (B, H, W, 3) uint8.

    Bilinear between pixel centers, horizontally, then vertically, each rounded to 8 bits, as in
    Pillow.
    """
    height, width = images.shape[1:3]
    top, left, h, w = crops.to(torch.float64).T
    upper, lower, down = _neighbors(top, h, height)
    first, second, right = _neighbors(left, w, width)
    device = images.device
    image = rows.to(device)[:, None, None]
    first, second = first.to(device)[:, None], second.to(device)[:, None]
    right, down = right.to(device)[:, None, :, None], down.to(device)[:, :, None, None]

    def line(y: Tensor) -> Tensor:
        y = y.to(device)[:, :, None]
        return _blend(images[image, y, first], images[image, y, second], right)

    return _blend(line(upper), line(lower), down).to(torch.uint8)


def _neighbors(start: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `size` output pixels, two input pixels and the second one's weight: (B, size)."""
    centers = (torch.arange(size, dtype=torch.float64) + 0.5) * (length / size)[:, None] - 0.5
    last = length[:, None] - 1
    centers = centers.clamp(min=0).minimum(last)
    before = centers.floor()
    weight = torch.round((centers - before) * SCALE).to(torch.int32)
    after = (before + 1).minimum(last)
    first, second = ((start[:, None] + x).to(torch.int64) for x in (before, after))
    return first, second, weight


def _blend(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean in int32, rounded half up."""
    mixed = first.to(torch.int32) * (SCALE - weight) + second.to(torch.int32) * weight
    return (mixed + SCALE // 2) >> 15
