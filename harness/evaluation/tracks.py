"""Tracks ranked in place of images ("image-to-track"): a track is as near as its nearest image.

Liu et al., *A Deep Learning-Based Approach to Progressive Vehicle Re-identification for Urban
Surveillance*, ECCV 2016. Tracks of the query's identity and camera are junk, as images are.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from harness.evaluation.distances import Blocks


def track_blocks(distances: Blocks, tracks: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    """Distances to images, block by block, to distances to tracks.

    Args:
        distances: pairs of (first row, (b, G)). tracks: (G,) from 0 without gaps.

    Yields:
        (first row, (b, T)), T the number of tracks.
    """
    place = torch.from_numpy(tracks)
    count = int(tracks.max()) + 1
    for start, rows in distances:
        where = place.to(rows.device).expand(len(rows), -1)
        nearest = rows.new_full((len(rows), count), torch.inf)
        yield start, nearest.scatter_reduce_(1, where, rows, "amin")


def of_tracks(
    identities: np.ndarray, cameras: np.ndarray | None, tracks: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Identities (T,) and cameras (T,), if there are any, of the tracks of a gallery.

    Args:
        identities, cameras, tracks: (G,) of its images.
    """
    _, first = np.unique(tracks, return_index=True)
    return identities[first], None if cameras is None else cameras[first]
