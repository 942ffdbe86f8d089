"""Packed keys, `bits of the squared distance << 32 | image`: they sort by distance, then image."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.components.labelers.tiles import squared_norms
from harness.core.precision import exact_matmul


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """||x_i − y_j||² of rows (A, D) and (B, D): (A, B), never negative."""
    squares = squared_norms(x), squared_norms(y)
    products = torch.addmm(squares[1][None, :], x, y.T, alpha=-2)
    return products.add_(squares[0][:, None]).clamp_(min=0)


def keys_of(distances: Tensor, first: int = 0) -> Tensor:
    """Distances (A, B) to images first … first+B−1 as int64 that sort by distance, then image.

    The bits of floats ≥ 0, read as integers, sort like the floats, and those of −0.0 are the
    smallest integer. So −0.0 marks an image's distance to itself.
    """
    columns = torch.arange(first, first + distances.shape[1], device=distances.device)
    return distances.view(torch.int32).to(torch.int64).bitwise_left_shift_(32).bitwise_or_(columns)


def distances_of(keys: Tensor) -> Tensor:
    """The squared distances of keys, float32."""
    return (keys >> 32).to(torch.int32).view(torch.float32)


def smallest(keys: Tensor, k: int) -> Tensor:
    """The k smallest of each row of (A, B), in any order; all of them if k > B."""
    return keys.topk(min(k, keys.shape[1]), dim=1, largest=False, sorted=False).values


def nearest_of(x: Tensor, images: Tensor, k: int) -> Tensor:
    """Sorted keys (A, k) of images (A,) of (N, D), from whole rows; themselves first."""
    with exact_matmul(x.device):
        distances = squared_distances(x[images], x)
    distances[torch.arange(len(images)), images] = -0.0
    return smallest(keys_of(distances), k).sort(dim=1).values
