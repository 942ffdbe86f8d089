"""Backbones: images to embeddings of one or several views."""

from harness.backbones.batchnorm import set_samples_per_bn
from harness.backbones.pooling import GeM, ViewHeads
from harness.backbones.resnet import ReIDNet, resnet
from harness.backbones.small import small
from harness.backbones.weights import describe_weights

__all__ = [
    "GeM",
    "ReIDNet",
    "ViewHeads",
    "describe_weights",
    "resnet",
    "set_samples_per_bn",
    "small",
]
