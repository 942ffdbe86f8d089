"""Several data sets trained on at once: their images in a row, people and cameras kept apart."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

import numpy as np
from PIL import Image

from harness.core.errors import DataError
from harness.data.image_source import ImageSource
from harness.data.types import Dataset, ReIDData, Split


class Joined(ImageSource):
    """The images of several sources, one after the other.

    Args:
        sources: their names, each once, and the sources; a name goes before its images' names.
    """

    def __init__(self, sources: Mapping[str, ImageSource]) -> None:
        self.names = tuple(sources)
        self.sources = tuple(sources.values())
        self.drawn = any(source.drawn for source in self.sources)
        self._ends = list(accumulate(len(source) for source in self.sources))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def place(self, index: int) -> tuple[int, int]:
        """Which source an image is of, and its index there."""
        source = bisect_right(self._ends, index)
        return source, index - (self._ends[source - 1] if source else 0)

    def name(self, index: int) -> str:
        source, inner = self.place(index)
        return f"{self.names[source]}/{self.sources[source].name(inner)}"

    def read(self, index: int) -> Image.Image:
        source, inner = self.place(index)
        return self.sources[source].read(inner)

    def fingerprint(self) -> str:
        """Of the sources' names and fingerprints, in their order."""
        digest = hashlib.blake2b(digest_size=16)
        for name, source in zip(self.names, self.sources, strict=True):
            digest.update(f"{name}\0{source.fingerprint()}\0".encode())
        return digest.hexdigest()


class Several(Dataset):
    """Training sets put together, tested on the first.

    Identities and cameras of one set are never taken for those of another: the numbers of each
    begin behind those of the one before. Where one of them lacks cameras, the training images have
    none at all: half of them would be of no use to a sampler or a memory.

    Args:
        sets: name → data set, in order. The first has a test part; those of the others are not
            looked at, and `harness eval RUN dataset=NAME` tests on them.
    """

    def __init__(self, sets: Mapping[str, Dataset]) -> None:
        self.sets = dict(sets)

    def load(self) -> ReIDData:
        """Raises DataError where one of the sets does, where one has no training images, and where
        two have the same.
        """
        found = {name: dataset.load() for name, dataset in self.sets.items()}
        for name, data in found.items():
            if not len(data.train.images):
                raise DataError(
                    f"{name} has no training images, and is to be trained on with others.",
                    "Leave it out, or test on it later: harness eval RUN dataset=NAME.",
                )
        parts = tuple(found.values())
        _check_different(found)
        train = Split(
            Joined({name: data.train.images for name, data in found.items()}),
            _apart([data.train.identities for data in parts]),
            _cameras(parts),
        )
        first = parts[0]
        return ReIDData(
            "+".join(data.name for data in parts),
            train,
            first.query,
            first.gallery,
            notes=first.notes,
            parts=parts,
        )


def _check_different(found: Mapping[str, ReIDData]) -> None:
    """Refuse the same images twice, each time as other people.

    Raises:
        DataError: two of the sets have equal training images.
    """
    seen: dict[str, str] = {}
    for name, data in found.items():
        digest = data.train.images.fingerprint()
        if digest in seen:
            raise DataError(
                f"{seen[digest]} and {name} are the same training images.",
                f"Leave one out, or give it other options: dataset.sets.{name}.KEY=VALUE.",
            )
        seen[digest] = name


def _cameras(parts: Sequence[ReIDData]) -> np.ndarray | None:
    """Cameras (N,) of all training images, kept apart; None unless all sets have them."""
    cameras = [data.train.cameras for data in parts]
    known = [numbers for numbers in cameras if numbers is not None]
    return _apart(known) if len(known) == len(cameras) else None


def _apart(numbers: Sequence[np.ndarray]) -> np.ndarray:
    """(N,) int64 of all, each one's beginning behind those of the one before; −1 stays −1."""
    found, first = [], 0
    for values in numbers:
        found.append(np.where(values < 0, values, values + first).astype(np.int64))
        first += max(int(values.max(initial=-1)) + 1, 0)
    return np.concatenate(found)
