"""Distances of queries to gallery images or tracks, in blocks of queries.

A matrix product may round identical gallery rows differently, depending on their column. All
duplicates of a gallery row therefore take the distance of the first one, so that ties are broken by
index on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import HarnessError
from harness.core.precision import exact_matmul

#: pairs of (first row, distances (b, G) of that row and the next ones)
Blocks = Iterable[tuple[int, Tensor]]


def distance_blocks(
    query: Tensor, gallery: Tensor, block: int = 512
) -> Iterator[tuple[int, Tensor]]:
    """Squared Euclidean distances of unit rows, 2 − 2 x·y clamped at 0, in blocks of queries.

    Query (Q, D) and gallery (G, D) are L2-normalized; computed in full float32 on the device of
    `query`, whatever precision training uses. Yields (first row, (b, G) float32).
    """
    two = torch.full((1,), 2.0, device=query.device)

    def distances(rows: Tensor, columns: Tensor) -> Tensor:
        return torch.addmm(two, rows, columns, alpha=-2).clamp_(min=0)

    return _blocks(query, gallery, block, distances)


def product_blocks(
    query: Tensor, gallery: Tensor, block: int = 512
) -> Iterator[tuple[int, Tensor]]:
    """Products x·y of the same rows in full float32; each block overwrites the previous one."""
    scratch = torch.empty(min(block, len(query)) * len(gallery), device=query.device)

    def products(rows: Tensor, columns: Tensor) -> Tensor:
        size = len(rows), columns.shape[1]
        return torch.mm(rows, columns, out=scratch[: size[0] * size[1]].view(size))

    return _blocks(query, gallery, block, products)


def _blocks(
    query: Tensor, gallery: Tensor, block: int, measure: Callable[[Tensor, Tensor], Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """Blocks of `measure(query rows (b, D), gallery rows as columns (D, G))`."""
    gallery = gallery.to(query.device, torch.float32).contiguous()
    first = first_duplicates(gallery)
    for start in range(0, len(query), block):
        with exact_matmul(query.device):
            found = measure(query[start : start + block].float(), gallery.T)
        yield start, found if first is None else found[:, first]


def first_duplicates(x: Tensor) -> Tensor | None:
    """For each row of x (N, D) float32 the first row that equals it bit for bit: (N,) int64.

    None if all rows differ.
    """
    from harness.components.labelers.duplicates import find_duplicates  # imports all labelers

    duplicates = find_duplicates(x)
    return None if duplicates is None else duplicates[0][duplicates[1]]


def track_blocks(distances: Blocks, tracks: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    """Distances to tracks from distances to images: a track is as far away as its nearest image.

    Liu et al., *A Deep Learning-Based Approach to Progressive Vehicle Re-identification for Urban
    Surveillance*, ECCV 2016 ("image-to-track").

    `tracks` is (G,) from 0 without gaps. Yields (first row, (b, T)) for T tracks.
    """
    track = torch.from_numpy(tracks)
    count = int(tracks.max()) + 1
    for start, rows in distances:
        columns = track.to(rows.device).expand(len(rows), -1)
        nearest = rows.new_full((len(rows), count), torch.inf)
        yield start, nearest.scatter_reduce_(1, columns, rows, "amin")


def check_normalized(side: str, features: Tensor, images: int) -> None:
    """Raise HarnessError unless features are (`images`, D), finite and L2-normalized."""
    if features.dim() != 2 or len(features) != images:
        raise HarnessError(
            f"{side} features are {tuple(features.shape)} for {images} identities",
            "They must be (images, D); flatten or select the views first.",
        )
    norms = torch.linalg.vector_norm(features.float(), dim=1)
    if bad := int((~torch.isfinite(norms)).sum()):
        raise HarnessError(
            f"{bad} of {images} {side} features are not finite",
            "Training has diverged: lower the learning rate or use precision=fp32.",
        )
    if bad := int(((norms - 1).abs() > 1e-2).sum()):
        raise HarnessError(
            f"{bad} of {images} {side} features are not L2-normalized",
            "Divide each row by its norm; rows of zeros mean that the backbone has collapsed.",
        )


def checked(distances: Blocks, queries: int, gallery: int) -> Iterator[tuple[int, Tensor]]:
    """Blocks given by a caller, checked and copied, because ranking overwrites them.

    Raises HarnessError if blocks are incomplete or given twice, or values negative or not finite.
    """
    missing = np.ones(queries, dtype=bool)
    for start, rows in distances:
        here = slice(start, start + len(rows))
        if rows.dim() != 2 or rows.shape[1] != gallery or start < 0 or here.stop > queries:
            raise HarnessError(
                f"distances {tuple(rows.shape)} at row {start} do not fit {queries} × {gallery}"
            )
        if not missing[here].all():
            raise HarnessError(f"distances of rows {start} to {here.stop - 1} were given twice")
        missing[here] = False
        if rows.numel() == 0:
            continue
        rows = rows.to(torch.float32) + 0.0  # makes −0, whose bits are those of a minimum, a +0
        low, high = rows.aminmax()
        if not (low >= 0 and high < torch.inf):
            raise HarnessError(
                f"distances of rows {start} to {here.stop - 1} are negative or not finite"
            )
        yield start, rows
    if missing.any():
        raise HarnessError(f"distances are missing for {missing.sum()} of {queries} queries")
