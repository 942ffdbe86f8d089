"""Position embeddings of transformers: other input sizes, and patches that overlap."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from harness.components.backbones.weight_layouts import State
from harness.core.errors import ConfigError, DataError

KEY = "pos_embed"


def overlap_patches(model: nn.Module, stride: int, size: tuple[int, int], name: str) -> None:
    """Move a transformer's patches by `stride` pixels instead of their size, in place.

    He et al., *TransReID*, ICCV 2021, section 3.1: ⌊(H + S − P) / S⌋ · ⌊(W + S − P) / S⌋ patches.

    Raises:
        ConfigError: it is no transformer with absolute position embeddings, or patches would have
            gaps.
    """
    from timm.layers import resample_abs_pos_embed

    embed: Any = getattr(model, "patch_embed", None)
    old: Any = getattr(model, KEY, None)
    if not isinstance(getattr(embed, "proj", None), nn.Conv2d) or not isinstance(old, nn.Parameter):
        raise ConfigError(
            f"backbone.patch_stride={stride}: {name} has no patches with absolute positions.",
            "Set backbone.patch_stride=null.",
        )
    patch = embed.proj.kernel_size
    if stride > min(patch):
        raise ConfigError(
            f"backbone.patch_stride={stride} leaves gaps between patches of {patch[0]}×{patch[1]}.",
            f"Use 1 … {min(patch)}.",
        )
    grid = tuple((side - length) // stride + 1 for side, length in zip(size, patch, strict=True))
    prefix = old.shape[1] - math.prod(embed.grid_size)
    resized = resample_abs_pos_embed(
        old.detach(), list(grid), list(embed.grid_size), num_prefix_tokens=prefix
    )
    embed.proj.stride = (stride, stride)
    embed.grid_size, embed.num_patches = grid, math.prod(grid)
    model.register_parameter(KEY, nn.Parameter(resized))


def resize_positions(state: State, model: nn.Module, size: tuple[int, int], origin: str) -> State:
    """Weights whose position embeddings fit a model's grid; the weights themselves if they do.

    The grid of the weights is square, as ImageNet's, or has the aspect of the input, or is twice as
    high as wide, as that of 256×128 pedestrians, or is one of overlapping patches of the input's
    size.

    Raises:
        DataError: their number of positions is none of these.
    """
    own, found = getattr(model, KEY, None), state.get(KEY)
    if own is None or found is None or found.dim() != 3 or own.shape == found.shape:
        return state
    from timm.layers import resample_abs_pos_embed

    grid = [int(side) for side in model.patch_embed.grid_size]  # type: ignore[union-attr]
    prefix = own.shape[1] - math.prod(grid)
    count = found.shape[1] - prefix
    side = math.isqrt(max(0, count))
    shapes = [(side, side)]
    for aspect in (size[0] / size[1], 2.0):
        tall = round(math.sqrt(max(0, count) * aspect))
        shapes.append((tall, count // max(1, tall)))
    high, wide = (int(side) for side in model.patch_embed.patch_size)  # type: ignore[union-attr]
    shapes += [
        ((size[0] - high) // stride + 1, (size[1] - wide) // stride + 1)
        for stride in range(1, min(high, wide))
    ]
    fits = [shape for shape in shapes if count > 0 and math.prod(shape) == count]
    if not fits:
        raise DataError(
            f"The weights of {origin} have {found.shape[1]} position embeddings, which are no grid "
            f"for {prefix} further tokens.",
            "They belong to another architecture, or were trained on images of another aspect.",
        )
    resized = resample_abs_pos_embed(found.float(), grid, list(fits[0]), num_prefix_tokens=prefix)
    return {**state, KEY: resized}
