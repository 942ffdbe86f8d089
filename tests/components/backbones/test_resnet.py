"""ResNets: where the strides are, the size of the map, and that torchvision's weights fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from harness.components.backbones import resnet, small
from harness.core.errors import ConfigError

#: (conv1, conv2, down-sampling) of the first block of layers 2, 3 and 4
STRIDES = {
    ("resnet18", "3x3"): [(2, 1, 2), (2, 1, 2), (1, 1, 1)],
    ("resnet34", "3x3"): [(2, 1, 2), (2, 1, 2), (1, 1, 1)],
    ("resnet50", "3x3"): [(1, 2, 2), (1, 2, 2), (1, 1, 1)],
    ("resnet50", "1x1"): [(2, 1, 2), (2, 1, 2), (1, 1, 1)],
    ("resnet101", "1x1"): [(2, 1, 2), (2, 1, 2), (1, 1, 1)],
}


def _stride(module: nn.Module) -> int:
    assert isinstance(module, nn.Conv2d)
    assert module.stride[0] == module.stride[1]
    return int(module.stride[0])


@pytest.mark.parametrize(("arch", "stride_in"), STRIDES)
def test_where_the_strides_are(arch: Any, stride_in: Any) -> None:
    with torch.device("meta"):  # no weights needed to look at strides
        trunk = resnet(arch, weights="none", stride_in=stride_in).trunk
    found = [
        tuple(_stride(trunk.get_submodule(f"layer{n}.0.{name}"))
              for name in ("conv1", "conv2", "downsample.0"))
        for n in (2, 3, 4)
    ]  # fmt: skip
    assert found == STRIDES[arch, stride_in]
    others = [
        module
        for name, module in trunk.named_modules()
        if isinstance(module, nn.Conv2d) and name.startswith("layer")
        and name.split(".")[:2] not in (["layer2", "0"], ["layer3", "0"])
    ]  # fmt: skip
    assert {_stride(module) for module in others} == {1}


@pytest.mark.parametrize("stride_in", ["3x3", "1x1"])
def test_the_map_of_the_usual_input(stride_in: Any) -> None:
    network = resnet("resnet50", weights="none", stride_in=stride_in,
                     views=["global", "upper", "lower"]).eval()  # fmt: skip
    with torch.no_grad():
        maps = network.trunk(torch.zeros(1, 3, 256, 128))
        assert maps.shape == (1, 2048, 16, 8)
        assert network.heads(maps).shape == (1, 3, 2048)
    assert (network.views, network.dim) == (("global", "upper", "lower"), 2048)


def test_stride_1x1_is_the_first_generations_arithmetic() -> None:
    """With its strides moved by hand, torchvision's own network gives the same map."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None).eval()
    ours = resnet("resnet50", weights="none", stride_in="1x1").eval().trunk
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    assert list(ours.state_dict()) == list(state)
    ours.load_state_dict(state)
    for block in (theirs.layer2[0], theirs.layer3[0]):
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    theirs.layer4[0].conv2.stride = theirs.layer4[0].downsample[0].stride = (1, 1)
    theirs.avgpool, theirs.fc = nn.Identity(), nn.Identity()
    x = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(ours(x).flatten(1), theirs(x))


def _map_of_both(theirs: nn.Module, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Feature maps (flat, averaged over positions) of our network and of torchvision's, changed."""
    ours = resnet("resnet50", weights="none", **options).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    assert list(ours.trunk.state_dict()) == list(state)
    ours.trunk.load_state_dict(state)
    theirs.fc = nn.Identity()
    x = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        return ours.trunk(x).mean(dim=(2, 3)), theirs.eval()(x)


def test_last_stride_2_is_the_classifier_as_it_was() -> None:
    torch.manual_seed(0)
    ours, theirs = _map_of_both(torchvision.models.resnet50(weights=None), last_stride=2)
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        maps = resnet("resnet18", weights="none", last_stride=2).trunk(torch.zeros(1, 3, 64, 32))
    assert maps.shape == (1, 512, 2, 1)


def test_a_stem_without_relu() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None)
    theirs.relu = nn.Identity()
    ours, expected = _map_of_both(theirs, last_stride=2, stem_relu=False)
    torch.testing.assert_close(ours, expected)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(_map_of_both(theirs, last_stride=2)[0], expected)


def test_blocks_without_1x1_convolutions_cannot_have_their_stride_there() -> None:
    with pytest.raises(ConfigError, match="means nothing for resnet18"):
        resnet(arch="resnet18", weights="none", stride_in="1x1")


def test_small() -> None:
    network = small(widths=(4, 8), strides=(1, 2), views=("global", "lower"))
    assert network(torch.zeros(2, 3, 32, 16)).shape == (2, 2, 8)
    assert network.trunk(torch.zeros(2, 3, 32, 16)).shape == (2, 8, 8, 4)
    with pytest.raises(ConfigError, match="do not pair"):
        small(widths=(4, 8), strides=(1,))
