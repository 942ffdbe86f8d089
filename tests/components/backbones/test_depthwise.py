"""Strided depthwise convolutions: outputs of torch's own, and gradients at least as exact."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from harness.components.backbones import mobilenet_v2
from harness.components.backbones.depthwise import StridedDepthwise, speed_up_depthwise


def depthwise(kernel: int = 3, stride: int = 2, groups: int = 8, dilation: int = 1) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(8, 8, kernel, stride, kernel // 2, dilation, groups, bias=False)


def gradients(
    layer: nn.Module, x: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Output and the gradients of the input and the weight, under autocast if a dtype is given."""
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        y = layer(x)
    weight = layer.get_parameter("weight")
    up = torch.linspace(-1, 1, y.numel(), dtype=x.dtype).view_as(y)
    own = torch.autograd.grad(y, [x, weight], up.to(y.dtype))
    return y.detach(), *own


@pytest.mark.parametrize(("kernel", "size"), [(3, (16, 8)), (3, (7, 5)), (5, (9, 9)), (2, (8, 4))])
def test_outputs_are_the_same_and_gradients_are_close(kernel: int, size: tuple[int, int]) -> None:
    plain = depthwise(kernel)
    fast = copy.deepcopy(plain)
    speed_up_depthwise(fast)
    assert type(fast) is StridedDepthwise
    x = torch.randn(4, 8, *size).contiguous(memory_format=torch.channels_last)
    exact = gradients(plain.double(), x.double())
    plain.float()
    y, *own = gradients(fast, x, torch.bfloat16)
    expected, *others = gradients(plain, x, torch.bfloat16)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    for mine, theirs, true in zip(own, others, exact[1:], strict=True):
        assert mine.dtype == theirs.dtype == torch.float32
        bound = 0.01 * float(true.abs().max())
        assert float((mine - true).abs().max()) < max(bound, float((theirs - true).abs().max()))


@pytest.mark.parametrize("at_once", [1, 8 * 12 * 2, 10**9])
def test_parts_of_a_batch_have_the_gradients_of_the_whole(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = depthwise()
    speed_up_depthwise(fast)
    x = torch.randn(5, 8, 6, 2).contiguous(memory_format=torch.channels_last)
    whole = gradients(fast, x, torch.bfloat16)
    monkeypatch.setattr("harness.components.backbones.depthwise.AT_ONCE", at_once)
    for mine, theirs in zip(gradients(fast, x, torch.bfloat16), whole, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_fp32_and_evaluation_are_left_to_torch() -> None:
    plain = depthwise()
    fast = copy.deepcopy(plain)
    speed_up_depthwise(fast)
    x = torch.randn(2, 8, 8, 8)
    for mine, theirs in zip(gradients(fast, x), gradients(plain, x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fast(x), plain(x), rtol=0, atol=0)


def test_a_frozen_weight_and_an_input_without_gradient() -> None:
    fast = depthwise()
    speed_up_depthwise(fast)
    x = torch.randn(2, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        fast(x).float().sum().backward()
    assert fast.weight.grad is not None
    fast.weight.requires_grad_(False)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        fast(x).float().sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    "layer",
    [
        depthwise(stride=1),
        depthwise(groups=4),
        depthwise(dilation=2),
        nn.Conv2d(8, 8, 3, 2, groups=8),
        nn.Conv2d(1, 1, 3, 2, bias=False),
    ],
    ids=["no stride", "groups of two", "dilated", "bias", "one channel"],
)
def test_other_convolutions_stay(layer: nn.Conv2d) -> None:
    speed_up_depthwise(layer)
    assert type(layer) is nn.Conv2d


def test_mobilenet_has_three_and_the_keys_of_torchvision() -> None:
    network = mobilenet_v2(weights="none")
    assert sum(isinstance(m, StridedDepthwise) for m in network.modules()) == 3
    assert "trunk.features.2.conv.1.0.weight" in network.state_dict()
