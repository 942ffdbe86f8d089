"""Image sources made of files in a folder."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from PIL import Image, ImageFile

from harness.core.hashing import hexdigest
from harness.data.image_source import ImageSource

#: exceptions that Pillow raises for damaged files, besides OSError
_DAMAGE = (
    SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error,
    Image.DecompressionBombError,
)  # fmt: skip


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
        or not an image.
        """
        # Any import may have enabled this; a truncated image must never count as a whole one.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        path = self.file(index)
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except _DAMAGE as error:
            raise OSError(f"{path}: {error}") from error

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
