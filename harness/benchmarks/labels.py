"""`harness bench labels`: the label step, alternating with the matrix products that it needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.benchmarks.features import CAMERAS, SIZES, synthetic_features
from harness.benchmarks.timing import USUAL, Bounds, Candidate, Round, compare
from harness.components.labelers import JaccardDBSCAN
from harness.core.precision import exact_matmul
from harness.core.throughput import synchronized_time

#: side of the tiles of a symmetric product, rows of the blocks of any other one
_TILE, _ROWS = 1024, 512


def measure(
    device: torch.device,
    size: str,
    images: int | None,
    views: int,
    repeats: int,
    bounds: Bounds = USUAL,
) -> dict[str, Any]:
    """Time the label step of synthetic features; candidates are `product` and `labels`.

    Args:
        size: data set whose numbers of training images, identities and cameras are used.
        images: another number of images, with identities in proportion.
        views: of each image; more than one are fused as in MSKD.
    """
    count, identities = SIZES[size]["train"]
    images = images or count
    labeler = JaccardDBSCAN(part_weight=0.15 if views > 1 else 0.0)
    identities = max(2, identities * images // count)
    (drawn,) = synthetic_features([images], identities, CAMERAS[size], views)
    features = drawn.features.to(device)
    labeler.label(features[:64])  # compiles the kernels, so that no round does

    def label() -> Round:
        started = synchronized_time(device)
        stats = labeler.label(features).stats
        return Round(images, synchronized_time(device) - started, stats)

    def product() -> Round:
        seconds = sum(product_seconds(features[:, view]) for view in range(views))
        return Round(images, seconds)

    setting = {"images": images, "views": views, "labeler": labeler.describe()}
    candidates = [Candidate("product", product), Candidate("labels", label)]
    return compare("labels", setting, candidates, repeats, device, bounds)


def product_seconds(x: Tensor, y: Tensor | None = None) -> float:
    """Seconds of a float32 matrix product alone, in blocks.

    Args:
        x: (N, D). y: (M, D) for x yᵀ; None for the half of x xᵀ on and above the diagonal.
    """
    x = x.float().contiguous()
    other, height, width = (x, _TILE, _TILE) if y is None else (y, _ROWS, len(y))
    out = torch.empty(height * width, device=x.device)
    started = synchronized_time(x.device)
    with exact_matmul(x.device):
        for top in range(0, len(x), height):
            rows = x[top : top + height]
            for left in range(top if y is None else 0, len(other), width):
                columns = other[left : left + width]
                block = out[: len(rows) * len(columns)].view(len(rows), len(columns))
                torch.mm(rows, columns.T, out=block)
    return synchronized_time(x.device) - started
