"""The frame of all networks here: a trunk, and view heads on its last feature map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import Self

from harness.components.backbones.freezing import freeze_parts
from harness.components.backbones.pooling import ViewHeads
from harness.core.interfaces import Backbone


class ReIDNet(Backbone):
    """A trunk with `ViewHeads` on its last feature map.

    Args:
        trunk: (B, 3, H, W) → maps (B, `channels`, h, w).
        freeze: names of parts of the trunk that are not trained.

    Raises:
        ConfigError: views that do not go together, or no such part.
    """

    def __init__(
        self, trunk: nn.Module, channels: int, views: Sequence[str], pooling: str,
        neck: str = "bn", freeze: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.trunk = trunk
        self.heads = ViewHeads(channels, views, pooling, neck)
        self.views = self.heads.views
        self.dim = channels
        self._frozen = tuple(freeze_parts(self.model, freeze))

    def forward(self, images: Tensor) -> Tensor:
        return self.heads(*self.map_and_token(images))

    def map_and_token(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """The last feature map (B, C, h, w), which the views pool, and a class token (B, C)."""
        return self.trunk(images), None

    @property
    def model(self) -> nn.Module:
        """The network of a library inside the trunk, whose parts `backbone.freeze` names."""
        return self.trunk

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    def layers(self) -> list[list[nn.Parameter]]:
        parts = list(self.model.children())
        parts = list(parts[0].children()) if len(parts) == 1 else parts
        return [own for part in parts if (own := list(part.parameters()))]
