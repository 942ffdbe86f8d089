"""Image sources made of files in a folder."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from harness.core.errors import first_line, say_once
from harness.core.hashing import hexdigest
from harness.data.image_source import ImageSource

#: how names of image files end, in lower case
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm",
    ".pgm", ".jp2", ".avif",
)  # fmt: skip
#: exceptions that Pillow raises for damaged files, besides OSError
_DAMAGE = (
    SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip

#: modes with 16 bits per value. Pillow opens 16-bit files as "I", too, which has 32 bits.
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N", "I")
#: formats of "I" images that have 16 bits, whatever their values are
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as RGB. Transparency is dropped; 16-bit values are divided by 257 and rounded.

    Pillow itself clips values above 255, which makes most 16-bit images white.

    Raises ValueError for floats and for 32-bit values: what is white is not known.
    """
    if image.mode not in (*SIXTEEN_BITS, "F"):
        return image.convert("RGB")
    values = np.asarray(image)
    low, high = values.min(), values.max()  # NaN if one value is
    # 32-bit files with values up to 255 may hold 8-bit pixels, which division would make black
    known = image.mode != "I" or image.format in _SIXTEEN_BIT_FORMATS or high > 255
    if image.mode == "F" or low < 0 or high > 65535 or not known:
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise ValueError(f"{kind} from {low} to {high}; convert it to 8 or 16 bits per value")
    scaled = (values.astype(np.uint32) + 128) // 257
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


class ImageFiles(ImageSource):
    """Image files, named by their paths relative to `root`, with forward slashes."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root = Path(root)
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def file(self, index: int) -> Path:
        return self.root / self.names[index]

    def read(self, index: int) -> Image.Image:
        """Decode image `index` completely, as RGB (H, W). EXIF orientation is not applied.

        Raises OSError with `errno` if the file cannot be read; without, if it is damaged, truncated
        not an image, or has values that are not pixels (see `to_rgb`).
        """
        # Any import may have enabled this; a truncated image must never count as a whole one.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        path = self.file(index)
        try:
            with Image.open(path) as image:
                if image.mode in SIXTEEN_BITS:
                    say_once("16-bit images: their values are divided by 257.")
                return to_rgb(image)
        except _DAMAGE as error:
            raise OSError(first_line(error)) from error

    def fingerprint(self) -> str:
        """Digest of the names and file sizes in order; modification times do not count."""
        sizes = zip(self.names, self.sizes, strict=True)
        return hexdigest(f"{name}\0{size}\0".encode() for name, size in sizes)

    @property
    def sizes(self) -> list[int]:
        """The size of each file in bytes."""
        return [size for size, _ in self._stats]

    @property
    def modified(self) -> int:
        return max((mtime for _, mtime in self._stats), default=0)

    @cached_property
    def _stats(self) -> list[tuple[int, int]]:
        """(size in bytes, mtime in ns) of each file; cached because network disks are slow."""
        root = f"{self.root}{os.sep}"  # building a Path per file takes longer than the stat itself
        stats = (os.stat(root + name) for name in self.names)  # noqa: PTH116
        return [(stat.st_size, stat.st_mtime_ns) for stat in stats]
