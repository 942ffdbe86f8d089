"""Gaussian blur of 8-bit images, the same bit for bit on every device."""

from __future__ import annotations

import torch
from torch import Tensor

#: the sum of a kernel's whole-number weights; 255 times as much is still exact in float32
SCALE = 1 << 16
REACH = 3.0  # standard deviations that a kernel reaches to each side


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image by a Gaussian of its own, up and down, then left and right.

    Kernels have whole-number weights, so that sums are exact in any order, and each of the two
    passes rounds to 8 bits. Borders are continued by their outermost pixels.

    Args:
        images: (B, H, W, 3) uint8. sigma: (B,) in pixels, on the CPU; 0 leaves an image as it is.

    Returns:
        (B, H, W, 3) uint8, a new tensor.
    """
    out = images.clone()
    blurred = torch.nonzero(sigma > 0).flatten()
    # image by image on the CPU, so that all the passes find it in the cache
    for rows in blurred.split(1 if images.device.type == "cpu" else max(len(blurred), 1)):
        weights = _kernels(sigma[rows]).to(images.device)
        there = rows.to(images.device)
        x = images[there].to(torch.float32)
        for axis in (1, 2):
            x = _pass(x, weights, axis)
        out[there] = x.to(torch.uint8)
    return out


def _kernels(sigma: Tensor) -> Tensor:
    """Weights (B, 2R + 1), float32, whole numbers that add up to `SCALE` for each image."""
    radius = torch.ceil(REACH * sigma)
    reach = int(radius.max())
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    bell = torch.exp(-0.5 * (offsets / sigma[:, None].double()) ** 2)
    bell = bell * (offsets.abs() <= radius[:, None])  # whatever the others' radii are
    weights = torch.round(SCALE * bell / bell.sum(dim=1, keepdim=True))
    weights[:, reach] += SCALE - weights.sum(dim=1)
    return weights.float()


def _pass(x: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Weighted sums of neighbours along an axis, rounded half up to whole numbers."""
    length, reach = x.shape[axis], weights.shape[1] // 2
    places = torch.arange(-reach, length + reach, device=x.device).clamp(0, length - 1)
    wide = x.index_select(axis, places)
    total = torch.full_like(x, SCALE / 2)
    for tap in range(weights.shape[1]):
        total.addcmul_(wide.narrow(axis, tap, length), weights[:, tap, None, None, None])
    return total.div_(SCALE).floor_()
