"""Random parts of images, resized to the whole: the augmentation of BUC (Lin et al., AAAI 2019).

A part of random area and aspect is taken, flipped or not, and scaled up to the size of the images,
bilinearly. The arithmetic is in whole numbers, so it is the same bit for bit on every device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from harness.core.seeds import uniform

TRIES = 10  # at a part that fits, after which an image is left whole
SCALE = 1 << 15  # of whole-number weights; 255 times as much fits into 32 bits


def draw_parts(
    batch: int,
    size: tuple[int, int],
    area: tuple[float, float],
    aspect: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Top, left, height and width of a part of each of B images: (B, 4) int64.

    Args:
        size: (H, W). area: of a part, as a share of H·W. aspect: its height ÷ width; both are drawn
            uniformly from their range, again if the part does not fit.
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


def resized_parts(images: Tensor, rows: Tensor, parts: Tensor) -> Tensor:
    """The parts, each scaled up to a whole image.

    Bilinear between the centres of pixels, left and right first, then up and down, each rounded to
    8 bits, as Pillow does it.

    Args:
        images: an image cache (N, H, W, 3) uint8. rows: (B,) of it. parts: (B, 4) int64, see `draw_parts`.

    Returns:
        (B, H, W, 3) uint8 on the device of the image cache.
    """
    height, width = images.shape[1:3]
    top, left, h, w = parts.to(torch.float64).T
    upper, lower, down = _places(top, h, height)
    first, second, right = _places(left, w, width)
    device = images.device
    image = rows.to(device)[:, None, None]
    first, second = first.to(device)[:, None], second.to(device)[:, None]
    right, down = right.to(device)[:, None, :, None], down.to(device)[:, :, None, None]

    def line(y: Tensor) -> Tensor:
        y = y.to(device)[:, :, None]
        return _blend(images[image, y, first], images[image, y, second], right)

    return _blend(line(upper), line(lower), down).to(torch.uint8)


def _places(start: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of each of `size` pixels, the two that it lies between and the second's weight: (B, size)."""
    centres = (torch.arange(size, dtype=torch.float64) + 0.5) * (length / size)[:, None] - 0.5
    last = length[:, None] - 1
    centres = centres.clamp(min=0).minimum(last)
    before = centres.floor()
    weight = torch.round((centres - before) * SCALE).to(torch.int32)
    places = [(start[:, None] + x).to(torch.int64) for x in (before, (before + 1).minimum(last))]
    return places[0], places[1], weight


def _blend(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Rounded half up; int32 throughout."""
    mixed = one.to(torch.int32) * (SCALE - weight) + other.to(torch.int32) * weight
    return (mixed + SCALE // 2) >> 15
