"""`train.compile`: networks compiled by torch, `default` or `max-autotune`.

The latter tries kernels out and, on a GPU, records CUDA graphs. Compiled code rounds otherwise than
the eager one, so a compiled cell is a cell of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.core.errors import ConfigError, did_you_mean, first_line
from harness.core.interfaces import Backbone

MODES = ("off", "default", "max-autotune")
#: how many versions of one network torch may keep: training and evaluation, whole batches and the
#: last of a set, with and without gradients, for each of a method's networks
VERSIONS = 64


def check_compile(mode: object, device: torch.device) -> None:
    """Compile a line of arithmetic, so that a missing compiler is found before any training.

    Raises:
        ConfigError: an unknown mode, or torch cannot compile for the device here; with its reason.
    """
    if mode not in MODES:
        hint = did_you_mean(str(mode), MODES)
        raise ConfigError(
            f"train.compile={mode} is unknown.",
            'Write it as "off": YAML takes the bare word for false.' if mode is False else hint,
        )
    if mode == "off":
        return
    try:
        torch.compile(_probe, fullgraph=True)(torch.ones(64, device=device, requires_grad=True))
    except Exception as error:
        raise ConfigError(
            f"train.compile={mode} does not work here on {device}: {first_line(error)}",
            "It needs a C++ compiler for a CPU, Triton for a GPU; or use train.compile=off.",
        ) from error


def _probe(x: Tensor) -> Tensor:
    return (x.sin() * 2 + 1).relu().sum()


def compile_networks(parts: nn.Module, mode: str) -> None:
    """Compile every backbone in `parts`, in place: keys of state dicts and copies stay as they are.

    Nothing happens until a network is called first, with the shapes that it then has.
    """
    if mode == "off":
        return
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VERSIONS)
    for network in parts.modules():
        if isinstance(network, Backbone):
            network.compile(mode=mode)
