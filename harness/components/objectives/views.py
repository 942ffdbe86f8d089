"""How the views of an image are classified, and how they are weighed in losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def view_weights(views: int, part_weight: float, like: Tensor) -> Tensor:
    """Weights (V,) of the views: 1 − λ2 for the global one, λ2 for each part.

    With three views they add up to 1 + λ2, as in MSKD's published code; with one view λ2 is 0.
    """
    weights = torch.full((views,), part_weight, dtype=like.dtype, device=like.device)
    weights[0] = 1.0 - part_weight if views > 1 else 1.0
    return weights


def view_logits(features: Tensor, rows: Tensor) -> Tensor:
    """Inner products of each view with its own rows: (B, V, D), (V, K, D) → (V, B, K)."""
    return torch.einsum("bvd,vkd->vbk", features, rows)


def view_cross_entropies(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of each view: (V, B, K), (B,) → (V,); see `smoothed_cross_entropy`."""
    views = len(logits)
    flat = F.cross_entropy(
        logits.flatten(0, 1), labels.repeat(views), reduction="none", label_smoothing=smoothing
    )
    return flat.view(views, -1).mean(dim=1)
