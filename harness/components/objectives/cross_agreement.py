"""How far an image's parts agree with the whole about who its neighbours are.

Cho et al., *Part-based Pseudo Label Refinement for Unsupervised Person Re-identification* (PPLR),
CVPR 2022, the cross agreement score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from harness.components.labelers.neighbours import nearest
from harness.core.errors import HarnessError


@torch.no_grad()
def cross_agreement(features: Tensor, k: int = 20, search: str = "auto") -> Tensor:
    """score(i, p) = |A ∩ B| / |A ∪ B| of image i's k nearest by the global view and by part p.

    An image is not its own neighbour here. Neighbours only are kept, never an N×N matrix.

    Args:
        features: (N, V, D), L2-normalised per view, view 0 global.
        k: neighbours, the image itself not counted; at most N − 1 are there.
        search: backend of `nearest`.

    Returns:
        (N, V − 1) float32 in [0, 1].

    Raises:
        HarnessError: fewer than two images.
    """
    if len(features) < 2:
        raise HarnessError("A single image has no neighbours.", "Use more images.")
    whole, *parts = (nearest(view, k + 1, search)[:, 1:] for view in features.unbind(dim=1))
    scores = [_overlap(whole, part) for part in parts]
    return torch.stack(scores, dim=1) if scores else features.new_empty(len(features), 0)


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each row's entries, none of them twice in a row: (N, k) → (N,)."""
    both = torch.cat([a, b], dim=1).sort(dim=1).values
    common = (both[:, 1:] == both[:, :-1]).sum(dim=1)
    return common.float() / (both.shape[1] - common)
