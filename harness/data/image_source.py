"""Image sources: fixed lists of images that can be decoded one by one.

Imports no torch, so that processes that only decode images start quickly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

import numpy as np
from PIL import Image

from harness.core.hashing import hexdigest


class ImageSource(ABC):
    """A fixed list of images, read from files or rendered."""

    #: whether images are rendered by Python code, which needs processes to use several cores; such
    #: a source must be picklable
    rendered: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """The image's relative path in its data set, unique in its split."""

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Decode image `index` as RGB. Raises OSError if it cannot be read or is damaged."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A short hex digest that identifies the images, equal on all machines."""

    def file(self, index: int) -> Path | None:
        """The file of image `index`; None for rendered images."""
        return None

    @property
    def modified(self) -> int:
        """Modification time of the newest file, in ns since 1970; 0 without files."""
        return 0


class Subset(ImageSource):
    """Some images of another source."""

    def __init__(self, source: ImageSource, indices: np.ndarray) -> None:
        self.source = source
        self.rendered = source.rendered
        self.indices = np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))

    def read(self, index: int) -> Image.Image:
        return self.source.read(int(self.indices[index]))

    def file(self, index: int) -> Path | None:
        return self.source.file(int(self.indices[index]))

    def fingerprint(self) -> str:
        return hexdigest([self.source.fingerprint().encode(), self.indices.astype("<i8").tobytes()])

    @property
    def modified(self) -> int:
        return self.source.modified


class Concatenation(ImageSource):
    """The images of several named sources, one after the other; the names become prefixes."""

    def __init__(self, sources: Mapping[str, ImageSource]) -> None:
        self.names = tuple(sources)
        self.sources = tuple(sources.values())
        self.rendered = any(source.rendered for source in self.sources)
        self._ends = list(accumulate(len(source) for source in self.sources))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _locate(self, index: int) -> tuple[int, int]:
        """The number of the image's source, and the image's index there."""
        number = bisect_right(self._ends, index)
        return number, index - (self._ends[number - 1] if number else 0)

    def name(self, index: int) -> str:
        number, inner = self._locate(index)
        return f"{self.names[number]}/{self.sources[number].name(inner)}"

    def read(self, index: int) -> Image.Image:
        number, inner = self._locate(index)
        return self.sources[number].read(inner)

    def file(self, index: int) -> Path | None:
        number, inner = self._locate(index)
        return self.sources[number].file(inner)

    def fingerprint(self) -> str:
        named = zip(self.names, self.sources, strict=True)
        return hexdigest(f"{name}\0{source.fingerprint()}\0".encode() for name, source in named)

    @property
    def modified(self) -> int:
        return max((source.modified for source in self.sources), default=0)
