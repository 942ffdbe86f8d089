"""Where pixels come from: a list of images that can be decoded one by one.

Nothing here needs torch, so that processes that only decode images start quickly.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod

import numpy as np
from PIL import Image


class ImageSource(ABC):
    """A fixed list of images that can be decoded one by one, from files or rendered."""

    #: whether Python itself draws them, so that it takes processes to use several cores; such a
    #: source can be pickled
    drawn: bool = False

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """The image's name within its data set (a relative path), unique in its split."""

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Decode image `index` as RGB. Raises OSError if it cannot be read or is truncated."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A short hex digest of what the images are, equal on every machine that holds the same."""


class Subset(ImageSource):
    """Some images of another source."""

    def __init__(self, source: ImageSource, indices: np.ndarray) -> None:
        self.source = source
        self.drawn = source.drawn
        self.indices = np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))

    def read(self, index: int) -> Image.Image:
        return self.source.read(int(self.indices[index]))

    def fingerprint(self) -> str:
        digest = hashlib.blake2b(self.source.fingerprint().encode(), digest_size=16)
        digest.update(self.indices.astype("<i8").tobytes())
        return digest.hexdigest()
