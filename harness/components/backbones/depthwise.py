"""Depthwise convolutions with a stride, whose bf16 gradients are slow on CPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: values of the input whose gradient is computed at once: 4 MB in fp32 fit into a cache
AT_ONCE = 2**20


class _FP32InputGradient(torch.autograd.Function):
    """A depthwise convolution of bf16 tensors; the gradient of its input is computed in fp32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: list[int], padding: list[int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding
        return F.conv2d(x, weight, None, stride, padding, groups=len(weight))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (gradient,), (x, weight), (stride, padding) = gradients, ctx.saved_tensors, ctx.geometry
        of_x, of_weight, _, _ = ctx.needs_input_grad

        def differentiate(g: Tensor, x: Tensor, w: Tensor, mask: list[bool]) -> list[Tensor]:
            return torch.ops.aten.convolution_backward(
                *(g, x, w, None, stride, padding, [1, 1], False, [0, 0], len(w)), mask
            )

        grad_x = grad_weight = None
        if of_x:
            grad_x, kernel = torch.empty_like(x), weight.float()
            images = max(1, AT_ONCE // x[0].numel())
            for g, result in zip(gradient.split(images), grad_x.split(images), strict=True):
                shape = torch.empty_like(result, dtype=torch.float32)  # its values have no effect
                result.copy_(differentiate(g.float(), shape, kernel, [True, False, False])[0])
        if of_weight:
            grad_weight = differentiate(gradient, x, weight, [False, True, False])[1]
        return grad_x, grad_weight, None, None


class StridedDepthwise(nn.Conv2d):
    """A depthwise convolution with a stride, (B, C, H, W) → (B, C, H', W').

    oneDNN has no fast kernel for the gradient of its input in bf16: it takes 60 times as long as in
    fp32 (torch 2.14, 96 channels of 64×32, stride 2), two thirds of a training step of MobileNetV2.
    """

    def forward(self, input: Tensor) -> Tensor:
        half = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else input.dtype
        if input.device.type != "cpu" or half != torch.bfloat16 or not torch.is_grad_enabled():
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            x, weight = input.to(half), self.weight.to(half)
            return _FP32InputGradient.apply(x, weight, list(self.stride), list(self.padding))


def speed_up_depthwise(network: nn.Module) -> None:
    """Make every depthwise convolution with a stride in `network` a `StridedDepthwise`, in place.

    State dict keys and outputs stay as they are.
    """
    for child in network.modules():
        if (
            type(child) is nn.Conv2d
            and 1 < child.groups == child.in_channels == child.out_channels
            and max(child.stride) > 1
            and child.bias is None
            and child.padding_mode == "zeros"
            and not isinstance(child.padding, str)
            and max(child.dilation) == 1
        ):
            child.__class__ = StridedDepthwise
