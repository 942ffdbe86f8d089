"""The example image in README.md: identities in rows, cameras in columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from harness.data.image_source import ImageSource
from harness.data.types import ReIDData

from .dataset import Synthetic

IDENTITIES, CAMERAS, EACH = 4, 5, 2
GAP = 2
FILE = Path(__file__).with_name("examples.png")


def contact_sheet(data: ReIDData) -> Image.Image:
    """Up to two images of four identities in each of five cameras, and bad detections below.

    Quantized to 128 colors to keep the file small.
    """
    train, gallery = data.train, data.gallery
    assert train.cameras is not None
    height, width = np.asarray(train.images.read(0)).shape[:2]
    columns = CAMERAS * EACH
    size = columns * (width + GAP) - GAP, (IDENTITIES + 1) * (height + GAP) - GAP
    sheet = Image.new("RGB", size, "white")

    def paste(source: ImageSource, indices: np.ndarray, column: int, row: int) -> None:
        for place, index in enumerate(indices, start=column):
            sheet.paste(source.read(int(index)), (place * (width + GAP), row * (height + GAP)))

    for row in range(IDENTITIES):
        for camera in range(CAMERAS):
            seen = np.flatnonzero((train.identities == row + 1) & (train.cameras == camera))
            paste(train.images, seen[:EACH], camera * EACH, row)
    paste(gallery.images, np.flatnonzero(gallery.identities == 0)[:columns], 0, IDENTITIES)
    return sheet.quantize(128, dither=Image.Dither.NONE)


def write(path: Path = FILE) -> None:
    """Write the file again, after a change of the renderer."""
    contact_sheet(Synthetic().load()).save(path, optimize=True)
