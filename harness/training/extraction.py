"""Features of a whole set, in evaluation mode, from resized images without augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.core.distributed.collectives import gather_shards, shard_bounds
from harness.core.distributed.processes import rank
from harness.core.interfaces import Backbone
from harness.core.precision import arithmetic
from harness.data.augment import normalize
from harness.data.prefetcher import ImageReader, Prefetcher


@torch.no_grad()
def extract(
    backbone: Backbone,
    images: np.ndarray | Tensor,
    device: torch.device,
    precision: str = "fp32",
    batch: int = 128,
    progress: Callable[[int, int], None] | None = None,
    views: int | None = None,
) -> Tensor:
    """Images (N, H, W, 3) uint8 → features (N, V, D) float32, each view L2-normalised.

    Args:
        views: keep only the first so many views (the test uses the global one alone).
        progress: called with (images done, images in all).

    The backbone is left in the mode in which it was found. A thread normalises the next batches,
    and sends them to a GPU, while it works. Several processes share the work, and all return the
    same.
    """
    was_training = backbone.training
    backbone.eval()
    count = len(images)
    kept = len(backbone.views) if views is None else views
    features = torch.empty(count, kept, backbone.dim, device=device)
    reader = ImageReader(images, device)
    # each process has whole batches, made up as they are for one process
    limits = shard_bounds(count, batch)
    first, last = limits[rank()], limits[rank() + 1]

    def batches() -> Iterator[tuple[int, Tensor]]:
        for start in range(first, last, batch):
            yield start, normalize(reader.span(start, start + batch), device=device)

    try:
        with Prefetcher(batches(), device) as feed:
            for start, inputs in feed:
                with arithmetic(precision, device):
                    embeddings = backbone(inputs)[:, :kept]
                features[start : start + batch] = F.normalize(embeddings.float(), dim=-1)
                if progress is not None:
                    progress(min(start + batch, last) - first, last - first)
    finally:
        backbone.train(was_training)
    return gather_shards(features, limits)
