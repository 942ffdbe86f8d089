"""Features of a whole image set, in evaluation mode and without augmentation."""

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

#: images of a forward pass
BATCH = 128


@torch.no_grad()
def extract(
    backbone: Backbone, images: np.ndarray | Tensor, device: torch.device, precision: str = "fp32",
    batch: int = BATCH, progress: Callable[[int, int], None] | None = None,
    views: int | None = None, mirrored: bool = False,
) -> Tensor:  # fmt: skip
    """Images (N, H, W, 3) uint8 → features (N, V, D) float32, each view L2-normalized.

    The backbone's mode is restored afterwards. A thread normalizes the next batches and copies them
    to the GPU meanwhile. Several processes share the work, and all return the same features.

    `views` keeps the first of them only; tests use the global one alone. `mirrored` flips the
    images horizontally.
    """
    was_training = backbone.training
    backbone.eval()
    count = len(images)
    kept = len(backbone.views) if views is None else views
    features = torch.empty(count, kept, backbone.dim, device=device)
    reader = ImageReader(images, device)
    # each process computes whole batches, the same ones as a single process would
    limits = shard_bounds(count, batch)
    first, last = limits[rank()], limits[rank() + 1]

    def batches() -> Iterator[tuple[int, Tensor]]:
        for start in range(first, last, batch):
            part = reader.span(start, start + batch)
            inputs = normalize(part, backbone.preprocessing, device=device)
            yield start, inputs.flip(3) if mirrored else inputs

    try:
        with Prefetcher(batches(), device) as prefetched:
            for start, inputs in prefetched:
                with arithmetic(precision, device):
                    embeddings = backbone(inputs)[:, :kept]
                features[start : start + batch] = F.normalize(embeddings.float(), dim=-1)
                if progress is not None:
                    progress(min(start + batch, last) - first, last - first)
    finally:
        backbone.train(was_training)
    return gather_shards(features, limits)
