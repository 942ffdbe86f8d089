"""Gaussian blur of 8-bit images, bit-identical on all devices."""

from __future__ import annotations

import torch
from torch import Tensor

#: the sum of a kernel's integer weights; 255 times as much is still exact in float32
SCALE = 1 << 16
REACH = 3.0  # radius of a kernel in standard deviations


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur images (B, H, W, 3) uint8, each with its own Gaussian; returns a new tensor.

    Kernels have integer weights, so that sums are exact in any order; each pass, vertical, then
    horizontal, rounds to 8 bits. Border pixels are replicated. `sigma` (B,) is in pixels, on the
    CPU; 0 leaves an image as it is.
    """
    out = images.clone()
    blurred = torch.nonzero(sigma > 0).flatten()
    # one image at a time on the CPU, so that it stays in the processor's cache for all passes
    for rows in blurred.split(1 if images.device.type == "cpu" else max(len(blurred), 1)):
        weights = _kernels(sigma[rows]).to(images.device)
        rows = rows.to(images.device)
        x = images[rows].to(torch.float32)
        for axis in (1, 2):
            x = _convolve(x, weights, axis)
        out[rows] = x.to(torch.uint8)
    return out


def _kernels(sigma: Tensor) -> Tensor:
    """Weights (B, 2R + 1), float32 integers that sum to `SCALE` for each image."""
    radius = torch.ceil(REACH * sigma)
    reach = int(radius.max())
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64)
    bell = torch.exp(-0.5 * (offsets / sigma[:, None].double()) ** 2)
    bell = bell * (offsets.abs() <= radius[:, None])  # independent of the other images' radii
    weights = torch.round(SCALE * bell / bell.sum(dim=1, keepdim=True))
    weights[:, reach] += SCALE - weights.sum(dim=1)
    return weights.float()


def _convolve(x: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Weighted sums of neighbors along an axis, rounded half up to integers."""
    length, reach = x.shape[axis], weights.shape[1] // 2
    indices = torch.arange(-reach, length + reach, device=x.device).clamp(0, length - 1)
    padded = x.index_select(axis, indices)
    total = torch.full_like(x, SCALE / 2)
    for tap in range(weights.shape[1]):
        total.addcmul_(padded.narrow(axis, tap, length), weights[:, tap, None, None, None])
    return total.div_(SCALE).floor_()
