"""ResNets for re-identification: stride 1 in the last stage, view heads for a classifier."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from harness.components.backbones.freezing import Freeze
from harness.components.backbones.ibn import use_ibn
from harness.components.backbones.pooling import Neck, Pooling, ViewNames
from harness.components.backbones.reid_net import ReIDNet
from harness.components.backbones.weights import Weights, load_weights
from harness.core.errors import ConfigError


def resnet(
    arch: Annotated[
        Literal["resnet18", "resnet34", "resnet50", "resnet101"], Field(description="architecture")
    ] = "resnet50",
    weights: Weights = "imagenet",
    stride_in: Annotated[
        Literal["3x3", "1x1"],
        Field(description="strided convolution of bottlenecks; 1x1 for first-generation weights"),
    ] = "3x3",
    pooling: Pooling = "gem",
    views: ViewNames = ("global",),
    last_stride: Annotated[Literal[1, 2], Field(description="of the last stage; BUC has 2")] = 1,
    stem_relu: Annotated[
        bool, Field(description="ReLU after the first batch norm; MMT's and CAP's code has none")
    ] = True,
    neck: Neck = "bn",
    ibn: Annotated[
        bool, Field(description="instance norm on half the channels (IBN-a); of bottlenecks only")
    ] = False,
    freeze: Freeze = (),
) -> ReIDNet:
    """A torchvision ResNet, (B, 3, H, W) → (B, V, D) with D = 512 (18, 34) or 2048 (50, 101).

    torchvision's own ResNets (v1.5) have `stride_in=3x3`, the first generation of ResNet weights
    (He et al., 2016) 1x1. Weights load into either kind, but lose accuracy in the wrong one.

    Raises:
        ConfigError: stride_in=1x1 or ibn without bottlenecks, or ImageNet weights for IBN-a.
        DataError: weights missing or unfit.
    """
    bottleneck = arch in ("resnet50", "resnet101")
    if ibn and not bottleneck:
        raise ConfigError(
            f"backbone.ibn=true means nothing for {arch}: its blocks are no bottlenecks.",
            "Set backbone.ibn=false, or use resnet50 or resnet101.",
        )
    if ibn and weights == "imagenet":
        raise ConfigError(
            "torchvision has no ImageNet weights for ResNets with IBN-a.",
            "Give a file, or a URL with its sha256, of resnet50_ibn_a from the authors' repository "
            "IBN-Net: backbone.weights=PATH; or backbone.weights=none.",
        )
    if stride_in == "1x1" and not bottleneck:
        raise ConfigError(
            f"backbone.stride_in=1x1 means nothing for {arch}: its blocks have no 1x1 convolution.",
            "Set backbone.stride_in=3x3, or use resnet50 or resnet101.",
        )
    import torchvision  # slow to import

    whole = torchvision.models.get_model(arch, weights=None)
    left_out = ("avgpool", "fc") if stem_relu else ("avgpool", "fc", "relu")
    trunk = nn.Sequential(
        OrderedDict((name, part) for name, part in whole.named_children() if name not in left_out)
    )
    at = "conv2" if bottleneck and stride_in == "3x3" else "conv1"
    for layer, stride in ((whole.layer2, 2), (whole.layer3, 2), (whole.layer4, last_stride)):
        first = layer[0]
        first.conv1.stride = first.conv2.stride = (1, 1)
        getattr(first, at).stride = first.downsample[0].stride = (stride, stride)
    if ibn:
        use_ibn([whole.layer1, whole.layer2, whole.layer3])
    load_weights(trunk, weights, arch)
    return ReIDNet(trunk, whole.fc.in_features, views, pooling, neck, freeze)
