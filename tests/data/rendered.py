"""Sources that are read by processes of their own, good and bad; without pytest or torch."""

from __future__ import annotations

import errno
import os

import numpy as np
from PIL import Image

from harness.data.image_source import ImageSource


class Rendered(ImageSource):
    """Flat pictures, each of another grey; what goes wrong goes wrong at image 20."""

    rendered = True

    def __init__(self, count: int, wrong: str = "") -> None:
        self.count, self.wrong = count, wrong

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        return f"{index}.png"

    def read(self, index: int) -> Image.Image:
        if index == 20 and self.wrong == "bad":
            raise OSError("half an image")
        if index == 20 and self.wrong == "disk":
            raise OSError(errno.EIO, "Input/output error", "20.png")
        if index == 20 and self.wrong == "dies":
            os._exit(7)
        return Image.fromarray(np.full((8, 4, 3), index % 251, dtype=np.uint8))

    def fingerprint(self) -> str:
        return f"{self.count}{self.wrong}"
