"""Augmentation compiled for the CPU: one pass over each image, from image cache to network.

A pixel has 256 possible values, so normalization is a table lookup. The table holds what numpy
computes for each value (`harness/data/augment.py`), so results are bit-identical.
"""

from __future__ import annotations

from typing import Any

from harness.core.kernels import loop


@loop
def augmented(
    images: Any, rows: Any, flip: Any, corner: Any, erase: Any, table: Any, fill: Any, out: Any,
    start: Any, stop: Any,
) -> None:  # fmt: skip
    """Flip, crop, normalize and erase images `start` … `stop`−1 of a batch.

    Args:
        images: (N, H, W·3) uint8. rows: (B,) of it. flip: (B,) bool.
        corner: (B, 2) int64, top and left of the crop in the unpadded image; may be negative.
        erase: (B, 4) int64, top, left, height and width.
        table: (3, 256) float32, the value of each pixel. fill: (3,) float32.
        out: (B, H, W·3) float32, written.
    """
    height, width = images.shape[1], images.shape[2] // 3
    red, green, blue = table[0], table[1], table[2]
    for b in range(start, stop):
        row = rows[b]
        top, left = corner[b, 0], corner[b, 1]
        first, last = max(0, -left), min(width, width - left)  # columns inside the image
        for y in range(height):
            line, target = images[row, min(max(y + top, 0), height - 1)], out[b, y]
            inside = 0 <= y + top < height
            begin, end = (first, max(first, last)) if inside else (0, 0)
            for x in range(min(begin, width)):
                target[3 * x] = red[0]
                target[3 * x + 1] = green[0]
                target[3 * x + 2] = blue[0]
            if flip[b]:
                at = 3 * (width - 1 - begin - left)
                for x in range(begin, end):
                    target[3 * x] = red[line[at]]
                    target[3 * x + 1] = green[line[at + 1]]
                    target[3 * x + 2] = blue[line[at + 2]]
                    at -= 3
            else:
                at = 3 * (begin + left)
                for x in range(begin, end):
                    target[3 * x] = red[line[at]]
                    target[3 * x + 1] = green[line[at + 1]]
                    target[3 * x + 2] = blue[line[at + 2]]
                    at += 3
            for x in range(end, width):
                target[3 * x] = red[0]
                target[3 * x + 1] = green[0]
                target[3 * x + 2] = blue[0]
        erase_top, erase_left = erase[b, 0], erase[b, 1]
        for y in range(erase_top, min(erase_top + erase[b, 2], height)):
            target = out[b, y]
            for x in range(erase_left, min(erase_left + erase[b, 3], width)):
                target[3 * x] = fill[0]
                target[3 * x + 1] = fill[1]
                target[3 * x + 2] = fill[2]
