"""Stateless randomness: each random stream is derived from the seed and its purpose.

For example `(seed, "student", 12, "augment")`. No generator state is carried from one epoch to the
next, so a resumed run draws exactly the numbers that an uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose: the first 8 bytes of BLAKE2b over the seed and the purpose."""
    text = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose, the same on every machine and for every device."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def uniform(generator: torch.Generator, *shape: int) -> np.ndarray:
    """Float64 numbers in [0, 1)."""
    return torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
