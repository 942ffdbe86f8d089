"""Backbones: images to embeddings of one or several views."""

from harness.components.backbones.batchnorm import set_samples_per_bn
from harness.components.backbones.mobilenet import mobilenet_v2
from harness.components.backbones.pooling import GeM, ViewHeads
from harness.components.backbones.reid_net import ReIDNet
from harness.components.backbones.resnet import resnet
from harness.components.backbones.small import small
from harness.components.backbones.timm_models import timm_model
from harness.components.backbones.weights import describe_weights

__all__ = [
    "GeM", "ReIDNet", "ViewHeads", "describe_weights", "mobilenet_v2", "resnet",
    "set_samples_per_bn", "small", "timm_model",
]  # fmt: skip
