"""`train.compile`: networks compiled by torch, `default` or `max-autotune`.

The latter benchmarks kernels and, on a GPU, records CUDA graphs. Compiled code rounds differently,
so a compiled experiment is an experiment of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.core.errors import ConfigError, first_line
from harness.core.interfaces import Backbone

#: compiled versions of one network that torch may keep: training and evaluation, whole and last
#: batches, with and without gradients, for each of a method's networks
VERSIONS = 64


def check_compile(mode: str, device: torch.device) -> None:
    """Compile a small function, so that a missing compiler is found before training.

    Raises ConfigError: torch cannot compile for the device, with the reason.
    """
    if mode == "off":
        return
    try:
        torch.compile(_probe, fullgraph=True)(torch.ones(64, device=device, requires_grad=True))
    except Exception as error:
        raise ConfigError(
            f"train.compile={mode} does not work here on {device}: {first_line(error)}",
            "Install a C++ compiler (CPU) or Triton (GPU), or use train.compile=off.",
        ) from error


def _probe(x: Tensor) -> Tensor:
    return (x.sin() * 2 + 1).relu().sum()


def compile_networks(modules: nn.Module, mode: str) -> None:
    """Compile every backbone among `modules` in place; keys of state dicts do not change.

    The compilation itself happens at a network's first call, for the shapes of that call.
    """
    if mode == "off":
        return
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VERSIONS)
    for network in modules.modules():
        if isinstance(network, Backbone):
            network.compile(mode=mode)
