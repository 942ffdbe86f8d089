"""A vision transformer whose last block is copied for each division into part views (TMGF)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.components.backbones.pooling import THIRDS, VIEWS
from harness.components.backbones.reid_net import ReIDNet
from harness.core.errors import ConfigError


class Branched(ReIDNet):
    """A mixin: view heads on several copies of the last block and norm, which start equal.

    Li, Wang, Gong, *Transformer Based Multi-Grained Features for Unsupervised Person
    Re-Identification*, WACVW 2023: halves are pooled from the tokens of one copy, thirds from those
    of another. The global view is the mean of the copies' global features.

    Args:
        trunk: a `TimmTrunk` of a `VisionTransformer`, which loses its last block and norm. The
            other arguments are those of `ReIDNet`.

    Raises:
        ConfigError: another kind of model, or no part views.
    """

    trunk: Any

    def __init__(
        self, trunk: Any, channels: int, views: Sequence[str], pooling: str,
        neck: str = "bn", freeze: Sequence[str] = (),
    ) -> None:  # fmt: skip
        from timm.models import VisionTransformer

        model = trunk.model
        if not isinstance(model, VisionTransformer):
            raise ConfigError(
                f"backbone.branches=true: {type(model).__name__} is no plain vision transformer.",
                "Set backbone.branches=false, or use a model such as vit_small_patch16_224.",
            )
        divisions = [part for part in (VIEWS[1:], THIRDS) if not set(part).isdisjoint(views)]
        if not divisions:
            raise ConfigError(
                f"backbone.branches=true, but backbone.views={list(views)} has no part views.",
                "Add halves or thirds: backbone.views=[global,upper,lower,top,middle,bottom].",
            )
        last = nn.Sequential(model.blocks[-1], model.norm)
        model.blocks, model.norm = model.blocks[:-1], nn.Identity()
        super().__init__(trunk, channels, views, pooling, neck, freeze)
        self.branches = nn.ModuleList(copy.deepcopy(last) for _ in divisions)
        #: the branch of each part view
        self._branch_of = [
            branch
            for view in self.heads.bands[1:]
            for branch, division in enumerate(divisions)
            if view in division
        ]

    def forward(self, images: Tensor) -> Tensor:
        pooled = torch.stack([self.heads.pooled(*found) for found in self._branches(images)])
        parts = [pooled[branch, :, v] for v, branch in enumerate(self._branch_of, start=1)]
        return self.heads.necked(torch.stack([pooled[:, :, 0].mean(dim=0), *parts], dim=1))

    def map_and_token(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Means over the branches."""
        maps, tokens = zip(*self._branches(images), strict=True)
        has_token = self.trunk.has_class_token
        return torch.stack(maps).mean(dim=0), torch.stack(tokens).mean(dim=0) if has_token else None

    def _branches(self, images: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """The map and the class token of each branch."""
        before = self.trunk.model.forward_features(images)
        return [self.trunk.split(branch(before)) for branch in self.branches]

    def layers(self) -> list[list[nn.Parameter]]:
        return [*super().layers(), list(self.branches.parameters())]
