"""The small network's initial weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harness.components.backbones import small
from harness.components.backbones.weights import describe_weights
from harness.core.errors import ConfigError
from harness.experiment.compose import compose


def parameters(weights: str, seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.cat([p.flatten() for p in small(weights=weights).trunk.parameters()])


def test_weights_that_come_with_the_harness_are_the_same_in_every_run() -> None:
    assert torch.equal(parameters("rendered", seed=1), parameters("rendered", seed=2))
    assert not torch.equal(parameters("none", seed=1), parameters("none", seed=2))
    assert describe_weights("rendered").startswith("rendered persons without labels, sha256:")


def test_they_are_those_of_a_trained_network() -> None:
    """All layers have weights, and batch statistics that are not the initial ones."""
    trunk = small(weights="rendered").trunk
    norms = [m for m in trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 8 and all(
        m.running_mean.abs().sum() > 0 for m in norms if m.running_mean is not None
    )


def test_they_fit_the_usual_widths_only() -> None:
    with pytest.raises(ConfigError, match="rendered") as caught:
        small(widths=[8, 16], strides=[1, 2], weights="rendered")
    assert caught.value.hint is not None and "backbone.weights=none" in caught.value.hint


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "timm", "small"])
def test_other_backbones_keep_their_own_in_the_demonstration(backbone: str) -> None:
    words = ["method=cluster_contrast", "dataset=synthetic"]
    plain = compose([*words, f"backbone={backbone}", "protocol=common"]).backbone.weights
    assert compose([*words, f"backbone={backbone}"]).backbone.weights == plain
    assert (plain == "rendered") == (backbone == "small")


def test_there_are_no_imagenet_weights() -> None:
    with pytest.raises(ConfigError, match="no ImageNet weights"):
        small(weights="imagenet")
