"""Duplicate rows: keep their distances independent of rounding.

A matrix product rounds equal rows differently depending on their positions. So only distinct rows
are searched, and each neighbor then stands for all of its duplicates, at one distance and in the
order of their numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.components.labelers.sparse import offsets, spans

_ROWS = 1024
_FIRST = 64


def find_duplicates(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Sets of equal rows of x (N, D), float32 and contiguous; None if all rows differ.

    Returns the first row of each set, ascending (U,), and the set of every row (N,) in 0 … U−1.
    """
    bits = x.view(torch.int32)
    for width in (_FIRST, x.shape[1]):  # rows that differ at the start need no further reading
        sums = _sums(bits[:, :width])
        if len(sums.unique()) == len(x):  # the usual case; equal rows have equal sums
            return None
    images = torch.arange(len(x), device=x.device)
    owner = images.clone()
    order = torch.sort(sums, stable=True).indices
    # compare each row with the one before it in the order of sums, where duplicates are adjacent;
    # different rows of one sum may come between them, and then at worst hide a duplicate
    for place in torch.nonzero(sums[order[1:]] == sums[order[:-1]])[:, 0].split(_ROWS):
        one, next_one = order[place], order[place + 1]
        same = (bits[one] == bits[next_one]).all(dim=1)
        owner[next_one[same]] = one[same]
    while not torch.equal(owner, owner[owner]):  # follow chains of duplicates to their first row
        owner = owner[owner]
    first, which = owner.unique(return_inverse=True)
    return None if len(first) == len(x) else (first, which)


def _sums(bits: Tensor) -> Tensor:
    """A checksum (N,) int64 of the bits (N, D) int32 of each row."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-(1 << 31), (1 << 31) - 1, bits.shape[1:], generator=generator)
    factors = drawn.to(bits.device, torch.int32)
    return torch.cat([(part * factors).sum(dim=1) for part in bits.split(_ROWS)])


def spread(ranks: Tensor, distances: Tensor, which: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Neighbors among distinct rows to neighbors among all.

    Args:
        ranks, distances: (U, min(k, U)) neighbors of each set among the sets, itself first.
        which: (N,) the set of each image.

    Returns:
        Ranks (N, k) and distances (N, k): the image itself, then by distance, then by number.
    """
    sets, n = len(ranks), len(which)
    members = torch.sort(which, stable=True).indices  # of each set, ascending
    starts = offsets(torch.bincount(which, minlength=sets))
    stops = torch.minimum(starts[1:], starts[:-1] + k)  # k duplicates of one row suffice
    largest = torch.iinfo(torch.int64).max
    out, near = ranks.new_empty(n, k), distances.new_empty(n, k)
    for images in torch.arange(n, device=ranks.device).split(_ROWS):
        mine = which[images]
        known = ranks[mine]
        owner, place = spans(starts[known].flatten(), stops[known].flatten())
        row = owner // known.shape[1]
        image = members[place]
        bits = distances[mine].flatten()[owner].view(torch.int32).to(torch.int64)
        keys = bits.bitwise_left_shift_(32).bitwise_or_(image)
        keys[image == images[row]] = -1  # itself, before all others
        begins = offsets(torch.bincount(row, minlength=len(images)))
        table = torch.full((len(images), int(begins.diff().max())), largest, device=row.device)
        table[row, torch.arange(len(row), device=row.device) - begins[row]] = keys
        # an image beyond the first k of its own set is missing from its list
        absent = ~(table == -1).any(dim=1)
        table = torch.cat([torch.where(absent, -1, largest)[:, None], table], dim=1)
        keys = table.topk(k, dim=1, largest=False, sorted=True).values
        out[images] = torch.where(keys == -1, images[:, None], keys & 0xFFFFFFFF)
        near[images] = torch.where(keys == -1, 0, keys >> 32).to(torch.int32).view(torch.float32)
    return out, near
