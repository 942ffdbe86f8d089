"""ResNets for re-identification: stride 1 in the last stage, view heads for a classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torchvision
from torch import Tensor, nn

from harness.components.backbones.pooling import ViewHeads
from harness.components.backbones.weights import imagenet_state, load_trunk, read_state
from harness.core.errors import ConfigError, did_you_mean
from harness.core.interfaces import Backbone

ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101")


class ReIDNet(Backbone):
    """A convolutional trunk with `ViewHeads` on its last feature map."""

    def __init__(
        self,
        trunk: nn.Module,
        channels: int,
        views: Sequence[str],
        pooling: str,
        neck: str = "bn",
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = ViewHeads(channels, views, pooling, neck)
        self.views = self.heads.views
        self.dim = channels

    def forward(self, images: Tensor) -> Tensor:
        return self.heads(self.trunk(images))

    def trunk_parameters(self) -> Iterator[nn.Parameter]:
        return self.trunk.parameters()


class _Trunk(nn.Module):
    """torchvision's ResNet up to its last feature map; same keys, no classifier."""

    def __init__(self, arch: str, stem_relu: bool = True) -> None:
        super().__init__()
        resnet = torchvision.models.get_model(arch, weights=None)
        left_out = ("avgpool", "fc") if stem_relu else ("avgpool", "fc", "relu")
        for name, child in resnet.named_children():
            if name not in left_out:
                self.add_module(name, child)
        self.channels: int = resnet.fc.in_features

    def forward(self, images: Tensor) -> Tensor:
        for child in self.children():
            images = child(images)
        return images


def _set_stride(block: nn.Module, stride: int, at: str) -> None:
    """Put the stride of a down-sampling block on the convolution called `at`."""
    for name in ("conv1", "conv2"):
        conv = block.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        conv.stride = (stride, stride) if name == at else (1, 1)
    shortcut = block.get_submodule("downsample.0")
    assert isinstance(shortcut, nn.Conv2d)
    shortcut.stride = (stride, stride)


def resnet(
    arch: str = "resnet50",
    weights: str = "imagenet",
    stride_in: str = "3x3",
    pooling: str = "gem",
    views: Sequence[str] = ("global",),
    last_stride: int = 1,
    stem_relu: bool = True,
    neck: str = "bn",
) -> ReIDNet:
    """A torchvision ResNet, (B, 3, H, W) → (B, V, D) with D = 512 (18, 34) or 2048 (50, 101).

    Args:
        arch: resnet18, resnet34, resnet50 or resnet101.
        weights: `imagenet`, a file with a torchvision-keyed state dict, or `none`.
        stride_in: where down-sampling bottlenecks have their stride: `3x3` as torchvision (v1.5)
            or `1x1` as the first generation of ResNet weights (He et al., 2016). Weights put into
            the other kind load without complaint and lose accuracy.
        pooling: `gem` or `avg`.
        views: `global`, and if wanted `upper`, `lower`, or `top`, `middle`, `bottom`.
        last_stride: of the last stage: 1 as usual here, 2 as for ImageNet and in BUC's code.
        stem_relu: false leaves out the ReLU after the first batch norm, as MMT's and CAP's code do.
        neck: `bn` or `embedding` (BUC), see `NECKS`.

    Raises:
        ConfigError: an unknown name. DataError: weights that cannot be had or do not fit.
    """
    if arch not in ARCHS:
        raise ConfigError(f"backbone.arch='{arch}' is unknown.", did_you_mean(arch, ARCHS))
    if stride_in not in ("3x3", "1x1"):
        raise ConfigError(f"backbone.stride_in='{stride_in}' is unknown.", "Known: 1x1, 3x3.")
    bottleneck = arch in ("resnet50", "resnet101")
    if stride_in == "1x1" and not bottleneck:
        raise ConfigError(
            f"backbone.stride_in=1x1 means nothing for {arch}: its blocks have no 1x1 convolution.",
            "Use stride_in=3x3, or resnet50 / resnet101.",
        )
    if last_stride not in (1, 2):
        raise ConfigError(f"backbone.last_stride={last_stride} must be 1 or 2.")
    trunk = _Trunk(arch, stem_relu)
    at = "conv2" if bottleneck and stride_in == "3x3" else "conv1"
    for name, stride in (("layer2", 2), ("layer3", 2), ("layer4", last_stride)):
        _set_stride(getattr(trunk, name)[0], stride, at)
    if weights == "imagenet":
        load_trunk(trunk, imagenet_state(arch), "torchvision")
    elif weights != "none":
        load_trunk(trunk, read_state(Path(weights).expanduser()), Path(weights).name)
    return ReIDNet(trunk, trunk.channels, views, pooling, neck)
