"""The example image in README.md: identities in rows, cameras in columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

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
    sheet = Image.new(
        "RGB", (columns * (width + GAP) - GAP, (IDENTITIES + 1) * (height + GAP) - GAP), "white"
    )
    for row in range(IDENTITIES):
        for camera in range(CAMERAS):
            seen = np.flatnonzero((train.identities == row + 1) & (train.cameras == camera))
            for place, index in enumerate(seen[:EACH]):
                at = ((camera * EACH + place) * (width + GAP), row * (height + GAP))
                sheet.paste(train.images.read(int(index)), at)
    bad = np.flatnonzero(gallery.identities == 0)[:columns]
    for place, index in enumerate(bad):
        at = (place * (width + GAP), IDENTITIES * (height + GAP))
        sheet.paste(gallery.images.read(int(index)), at)
    return sheet.quantize(128, dither=Image.Dither.NONE)


def write(path: Path = FILE) -> None:
    """Write the file again, after a change of the renderer."""
    contact_sheet(Synthetic().load()).save(path, optimize=True)
