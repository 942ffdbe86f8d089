"""Losses of an image's views: scores, cross-entropies, and their weighted sum."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def weigh_views(terms: Tensor, part_weight: float) -> Tensor:
    """Weighted sum of losses over views, (…, V) → (…): 1 − λ2 for the global view, λ2 for parts.

    With three views the weights add up to 1 + λ2, as in MSKD's code; a single view has weight 1.
    """
    views = terms.shape[-1]
    weights = torch.full((views,), part_weight, dtype=terms.dtype, device=terms.device)
    weights[0] = 1.0 - part_weight if views > 1 else 1.0
    return (weights * terms).sum(dim=-1)


def view_logits(features: Tensor, rows: Tensor) -> Tensor:
    """Inner products of each view with its own rows: (B, V, D), (V, K, D) → (V, B, K)."""
    return torch.einsum("bvd,vkd->vbk", features, rows)


def view_cross_entropies(
    logits: Tensor, labels: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Mean label-smoothed cross-entropy of each view: (V, B, K), (B,) → (V,).

    Weights (B,) multiply the samples' losses; the mean still divides by B.
    """
    views = len(logits)
    flat = F.cross_entropy(
        logits.flatten(0, 1), labels.repeat(views), reduction="none", label_smoothing=smoothing
    )
    losses = flat.view(views, -1)
    return (losses if weights is None else weights * losses).mean(dim=1)
