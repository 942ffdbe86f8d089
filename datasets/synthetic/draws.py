"""Random numbers that are the same on every machine and with all library versions.

numpy guarantees its bit streams but not the distributions drawn from them, and libm differs between
platforms. Here a draw is a slice of SHAKE-128 of the key, turned into a number by exactly rounded
operations.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
_BLOCK = 64  # 32-bit numbers per block; an image needs about as many


def _words(text: bytes) -> Iterator[int]:
    """Infinitely many 32-bit numbers."""
    block = 0
    while True:
        digest = hashlib.shake_128(b"%s#%d" % (text, block)).digest(4 * _BLOCK)
        yield from np.frombuffer(digest, dtype="<u4").tolist()
        block += 1


class Draws:
    """A random stream for one key, for example `Draws(seed, "train", 12, "camera", 3)`."""

    def __init__(self, *key: int | str) -> None:
        self._text = "/".join(map(str, key)).encode()
        self._next = _words(self._text)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        return low + (high - low) * (next(self._next) / 4294967296.0)

    def integer(self, count: int) -> int:
        """A number of 0 … count − 1."""
        return (next(self._next) * count) >> 32

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.uniform() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[self.integer(len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in random order."""
        items = list(options)
        for last in range(len(items) - 1, 0, -1):
            other = self.integer(last + 1)
            items[last], items[other] = items[other], items[last]
        return items

    def bytes(self, count: int) -> np.ndarray:
        """(count,) uint8, uniform, from a separate stream."""
        return np.frombuffer(hashlib.shake_128(self._text + b"#bytes").digest(count), np.uint8)
