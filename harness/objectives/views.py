"""How the views of an image are weighed in losses."""

from __future__ import annotations

import torch
from torch import Tensor


def view_weights(views: int, part_weight: float, like: Tensor) -> Tensor:
    """Weights (V,) of the views: 1 − λ2 for the global one, λ2 for each part.

    With three views they add up to 1 + λ2, as in MSKD's published code; with one view λ2 is 0.
    """
    weights = torch.full((views,), part_weight, dtype=like.dtype, device=like.device)
    weights[0] = 1.0 - part_weight if views > 1 else 1.0
    return weights
