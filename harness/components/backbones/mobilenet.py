"""MobileNetV2 for re-identification: a network for CPUs that ImageNet weights exist for."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from harness.components.backbones.depthwise import speed_up_depthwise
from harness.components.backbones.freezing import Freeze
from harness.components.backbones.pooling import Neck, Pooling, ViewNames
from harness.components.backbones.reid_net import ReIDNet
from harness.components.backbones.weights import Weights, load_weights

#: index in torchvision's `features` of the first block of the last stage (160 channels), the only
#: one with a stride there
LAST_STAGE = 14


def mobilenet_v2(
    weights: Weights = "imagenet",
    pooling: Pooling = "gem",
    views: ViewNames = ("global",),
    last_stride: Annotated[
        Literal[1, 2], Field(description="of the last stage with a stride; torchvision's is 2")
    ] = 1,
    neck: Neck = "bn",
    freeze: Freeze = (),
) -> ReIDNet:
    """torchvision's MobileNetV2 (Sandler et al., 2018), (B, 3, H, W) → (B, V, 1280).

    Raises:
        DataError: the weights are missing or do not fit.
    """
    import torchvision  # slow to import

    whole = torchvision.models.mobilenet_v2(weights=None)
    depthwise = whole.features[LAST_STAGE].conv[1][0]
    depthwise.stride = (last_stride, last_stride)
    trunk = nn.Sequential(OrderedDict(features=whole.features))
    load_weights(trunk, weights, "mobilenet_v2")
    speed_up_depthwise(trunk)
    return ReIDNet(trunk, whole.last_channel, views, pooling, neck, freeze)
