"""TransReID-SSL's stem: convolutions with IBN before the patch projection of a transformer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor, nn

from harness.components.backbones.ibn import InstanceBatchNorm
from harness.core.errors import ConfigError

Stem = Annotated[
    Literal["patch", "ics"],
    Field(
        description="below a transformer's blocks: a projection of patches, or IBN convolutions "
        "before it (ICS, TransReID-SSL)"
    ),
]
#: channels of the convolutions
WIDTH = 64


class ConvolutionStem(nn.Module):
    """IBN-based convolution stem (ICS): images (B, 3, H, W) → patch tokens (B, h·w, D), or
    (B, h, w, D) where timm's embedding gives these.

    Luo et al., *Self-Supervised Pre-Training for Transformer-Based Person Re-Identification*, 2021,
    as in their code: convolutions of 7×7, 3×3 and 3×3 with 64 channels, the first with stride 2,
    normalized by IBN, IBN and batch norm, and a projection of patches of half the size. The names
    of its parts are those of the authors' weights.

    Args:
        plain: timm's patch embedding, whose place it takes.
    """

    def __init__(self, plain: Any, channels: int) -> None:
        super().__init__()
        self.patch_size, self.img_size = plain.patch_size, plain.img_size
        self.grid_size, self.num_patches = plain.grid_size, plain.num_patches
        self.flatten = plain.flatten
        self.conv = nn.Sequential(
            nn.Conv2d(3, WIDTH, 7, stride=2, padding=3, bias=False),
            InstanceBatchNorm(WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            InstanceBatchNorm(WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
        )
        half = tuple(side // 2 for side in self.patch_size)
        self.proj = nn.Conv2d(WIDTH, channels, half, stride=half)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.proj(self.conv(images))
        return maps.flatten(2).transpose(1, 2) if self.flatten else maps.permute(0, 2, 3, 1)


def use_convolution_stem(model: Any, name: str) -> None:
    """Replace the patch embedding of a timm transformer by a `ConvolutionStem`, in place.

    Raises:
        ConfigError: the model has no projection of patches.
    """
    plain = getattr(model, "patch_embed", None)
    if not isinstance(getattr(plain, "proj", None), nn.Conv2d) or not hasattr(model, "blocks"):
        raise ConfigError(
            f"backbone.stem=ics: {name} has no projection of patches to replace.",
            "Set backbone.stem=patch, or choose a vision transformer.",
        )
    model.patch_embed = ConvolutionStem(plain, int(model.embed_dim))
