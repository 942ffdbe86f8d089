"""Sparse rows in flat tensors: offsets, ranges, and blocks of rows of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

# Elements of scratch memory, of a block of rows times its width and of terms of sums: small enough
# for a CPU's cache, large enough to fill a GPU.
_SCRATCH_CPU, _SCRATCH_GPU = 1 << 22, 1 << 26
_TERMS_CPU, _TERMS_GPU = 1 << 19, 1 << 25


def offsets(sizes: Tensor) -> Tensor:
    """Starts of consecutive ranges of these sizes, and the end of the last one."""
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def spans(start: Tensor, stop: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenate the ranges start … stop−1: the range of each element, and the element."""
    size = stop - start
    owner = torch.repeat_interleave(size)
    offset = start - (size.cumsum(0) - size)
    return owner, offset[owner].add_(torch.arange(len(owner), device=owner.device))


def row_blocks(terms: Tensor, width: int, shrink: int = 1) -> Iterator[tuple[int, int]]:
    """Cut rows into blocks (start, stop) of bounded scratch, `shrink` times smaller than usual.

    Terms (R,) int64 are those of each row's sums (`Encoding.terms`), `width` is a block's.
    """
    cpu = terms.device.type == "cpu"
    max_rows = max(1, (_SCRATCH_CPU if cpu else _SCRATCH_GPU) // shrink // max(1, width))
    max_terms = (_TERMS_CPU if cpu else _TERMS_GPU) // shrink
    total = terms.cumsum(0).cpu().numpy()
    start, done = 0, 0
    while start < len(total):
        stop = int(np.searchsorted(total, done + max_terms, "right"))
        stop = min(max(stop, start + 1), start + max_rows)
        yield start, min(stop, len(total))
        start, done = stop, int(total[min(stop, len(total)) - 1])
