"""Inputs that tests share."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from tests.paths import GOLDEN


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of a golden file."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def blobs(clusters: int, each: int, dim: int = 16, spread: float = 0.1, seed: int = 0) -> Tensor:
    """Unit rows (clusters · each, D) around random centers, cluster after cluster."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(clusters, dim, generator=generator).repeat_interleave(each, dim=0)
    rows = centers + spread * torch.randn(clusters * each, dim, generator=generator)
    return torch.nn.functional.normalize(rows, dim=-1)


@st.composite
def lattice(draw: st.DrawFn, smallest: int = 2, largest: int = 24) -> np.ndarray:
    """Unit rows (N, 4) with exact distances in any arithmetic: many copies and many ties."""
    halves = st.tuples(*[st.sampled_from([-0.5, 0.5])] * 4)
    axes = st.tuples(st.integers(0, 3), st.sampled_from([-1.0, 1.0])).map(
        lambda a: tuple(a[1] if i == a[0] else 0.0 for i in range(4))
    )
    rows = draw(st.lists(halves | axes, min_size=smallest, max_size=largest))
    return np.array(rows, dtype=np.float32)
