"""The picture on the data set's page: people in rows, cameras in columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from harness.data.types import ReIDData

from .dataset import Synthetic

PEOPLE, CAMERAS, EACH = 4, 5, 2
GAP = 2
FILE = Path(__file__).with_name("examples.png")


def contact_sheet(data: ReIDData) -> Image.Image:
    """Two pictures of each of four people in each of five cameras, as far as they pass it; below
    them bad detections. In 128 colours, so that the file is small.
    """
    train, gallery = data.train, data.gallery
    assert train.cameras is not None
    height, width = np.asarray(train.images.read(0)).shape[:2]
    columns = CAMERAS * EACH
    sheet = Image.new(
        "RGB", (columns * (width + GAP) - GAP, (PEOPLE + 1) * (height + GAP) - GAP), "white"
    )
    for row in range(PEOPLE):
        for camera in range(CAMERAS):
            seen = np.flatnonzero((train.identities == row + 1) & (train.cameras == camera))
            for place, index in enumerate(seen[:EACH]):
                at = ((camera * EACH + place) * (width + GAP), row * (height + GAP))
                sheet.paste(train.images.read(int(index)), at)
    bad = np.flatnonzero(gallery.identities == 0)[:columns]
    for place, index in enumerate(bad):
        at = (place * (width + GAP), PEOPLE * (height + GAP))
        sheet.paste(gallery.images.read(int(index)), at)
    return sheet.quantize(128, dither=Image.Dither.NONE)


def write(path: Path = FILE) -> None:
    """Make it anew: after a change of the renderer."""
    contact_sheet(Synthetic().load()).save(path, optimize=True)
