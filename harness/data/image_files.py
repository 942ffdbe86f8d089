"""Where pixels come from: image files under a folder."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from PIL import Image, ImageFile

from harness.data.image_source import ImageSource, Subset
from harness.data.joined import Joined

#: what Pillow's plug-ins raise for damaged files, besides OSError
_DAMAGE = (
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)


class Files(ImageSource):
    """Image files, named by their paths relative to `root`.

    Args:
        root: the folder that the names are relative to.
        names: relative paths with forward slashes, in the order in which images are numbered.
    """

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.root = Path(root)
        self.names = tuple(names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def read(self, index: int) -> Image.Image:
        """Decode image `index` completely, as RGB (H, W). EXIF orientation is not applied.

        Raises:
            OSError: the file cannot be read (`errno` is set), or its content is damaged, truncated
                or no image (`errno` is None).
        """
        # Anyone may have turned this on; half an image must never pass for a whole one.
        ImageFile.LOAD_TRUNCATED_IMAGES = False
        path = self.root / self.names[index]
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except _DAMAGE as error:
            raise OSError(f"{path}: {error}") from error

    def fingerprint(self) -> str:
        """Digest of names and file sizes in their order, which is the order of an image cache's rows.

        Times are left out, so that two copies of a data set have one fingerprint.
        """
        digest = hashlib.blake2b(digest_size=16)
        for name, (size, _) in zip(self.names, self._stats, strict=True):
            digest.update(f"{name}\0{size}\0".encode())
        return digest.hexdigest()

    @property
    def sizes(self) -> list[int]:
        """The size of every file in bytes."""
        return [size for size, _ in self._stats]

    @property
    def modified(self) -> int:
        """When the newest file was modified, in ns since 1970; 0 without files."""
        return max((mtime for _, mtime in self._stats), default=0)

    @cached_property
    def _stats(self) -> list[tuple[int, int]]:
        """(size in bytes, mtime in ns) of every file; read once, as it is slow on network disks."""
        root = f"{self.root}{os.sep}"  # a Path for each would take longer than asking the disk
        stats = (os.stat(root + name) for name in self.names)  # noqa: PTH116
        return [(stat.st_size, stat.st_mtime_ns) for stat in stats]


def modified(source: ImageSource) -> int:
    """When a source's newest file was modified, in ns since 1970; 0 if it has no files."""
    while isinstance(source, Subset):
        source = source.source
    if isinstance(source, Joined):
        return max(map(modified, source.sources), default=0)
    return int(getattr(source, "modified", 0))
