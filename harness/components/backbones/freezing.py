"""`backbone.freeze`: parts of a network that keep their initial weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import nn

from harness.core.errors import ConfigError, did_you_mean

Freeze = Annotated[
    Sequence[str],
    Field(
        description="parts below the pooling that are not trained: layer1, blocks.0, patch_embed"
    ),
]


def freeze_parts(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Switch off the gradients of modules and parameters of a network, by name.

    Returns:
        the modules, which must stay in evaluation mode, so that batch statistics stay, too.

    Raises:
        ConfigError: there is no such part.
    """
    frozen = []
    modules, parameters = dict(network.named_modules()), dict(network.named_parameters())
    for name in names:
        if name in parameters:
            parameters[name].requires_grad_(False)
        elif name and name in modules:
            modules[name].requires_grad_(False)
            frozen.append(modules[name])
        else:
            top = [key for key in (*modules, *parameters) if key and "." not in key]
            hint = did_you_mean(name, top)
            raise ConfigError(f"backbone.freeze: there is no part '{name}' to freeze.", hint)
    return frozen
