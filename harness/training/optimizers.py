"""The optimizer of a stage and its learning rate, epoch by epoch.

Most methods use Adam with a rate that falls by ×0.1 every 20 epochs. This module also has what
other authors' code needs: SGD, warm-up, milestones, and a lower rate for the pretrained layers; and
what transformers need: AdamW, a cosine schedule and layer-wise decay of the rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone

#: `optimizer.name` → its name on the protocol card
NAMES = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}
#: options of SGD alone, with their defaults
_SGD_ONLY = {"momentum": 0.9, "nesterov": False}


def learning_rate(settings: Mapping[str, Any], passed: int, epochs: int) -> float:
    """The learning rate of an epoch.

    `schedule=step`: lr · w · γ^n, where n counts the milestones `steps` reached so far or, without
    milestones, whole periods of `step` epochs. w rises linearly from `warmup_start` in the first
    epoch to 1 in epoch `warmup`.

    `schedule=cosine`: w · (min_lr + (lr − min_lr) · (1 + cos πt) / 2), where t rises linearly from
    0 at the end of the warm-up to 1 after the last epoch (Loshchilov and Hutter, ICLR 2017, eq. 5).

    Args:
        passed: epochs since the stage's first one. epochs: of the stage. Both include warm-up
            epochs with a teacher.
    """
    rate, warmup = float(settings["lr"]), int(settings["warmup"])
    if settings["schedule"] == "cosine":
        t = max(0, passed - warmup) / max(1, epochs - warmup)
        low = float(settings["min_lr"])
        rate = low + (rate - low) * (1 + math.cos(math.pi * t)) / 2
    else:
        if settings["steps"]:
            falls = sum(passed >= milestone for milestone in settings["steps"])
        else:
            falls = passed // int(settings["step"])
        rate *= float(settings["gamma"]) ** falls
    if passed < settings["warmup"]:
        start, share = float(settings["warmup_start"]), passed / settings["warmup"]
        rate *= start * (1 - share) + share
    return rate


def make_optimizer(
    settings: Mapping[str, Any], parameters: Iterable[nn.Parameter], networks: Iterable[Backbone]
) -> torch.optim.Optimizer:
    """An optimizer without state: Adam or SGD, with weight decay as L2 in the gradient, or AdamW.

    Parameters without gradients are left out. The rate of pretrained layer i of L, counted from 0
    at the input, is multiplied by `backbone_lr_mult` · `layer_decay`^(L − i) (Bao et al., BEiT,
    ICLR 2022). Parameters of one factor are a group, in order of the factors.
    """
    trained = [p for p in parameters if p.requires_grad]
    factors: dict[int, float] = {}
    decay, scale = float(settings["layer_decay"]), float(settings["backbone_lr_mult"])
    for network in networks:
        layers = network.layers()
        for place, layer in enumerate(layers):
            factors |= {id(p): scale * decay ** (len(layers) - place) for p in layer}
    by_factor: dict[float, list[nn.Parameter]] = {}
    for parameter in trained:
        by_factor.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": members} | ({} if factor == 1.0 else {"scale": factor})
        for factor, members in sorted(by_factor.items())
    ]
    # the fused kernel is faster on GPUs; on CPUs it would round differently from stored results
    fused = True if trained and all(p.is_cuda for p in trained) else None
    shared: dict[str, Any] = {"lr": float(settings["lr"]), "fused": fused}
    shared["weight_decay"] = float(settings["weight_decay"])
    if settings["name"] == "adam":
        return torch.optim.Adam(groups, **shared)
    if settings["name"] == "adamw":
        return torch.optim.AdamW(groups, **shared)
    momentum, nesterov = float(settings["momentum"]), bool(settings["nesterov"])
    return torch.optim.SGD(groups, momentum=momentum, nesterov=nesterov, **shared)


def load_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a `state_dict` made on any device; `fused` stays as this device needs it."""
    groups = [
        {**theirs, "fused": ours.get("fused")}
        for ours, theirs in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({**state, "param_groups": groups})


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set every group's rate to `rate`, times the group's own factor if it has one."""
    for group in optimizer.param_groups:
        group["lr"] = rate * float(group.get("scale", 1.0))


def describe(settings: Mapping[str, Any]) -> str:
    """The optimizer's line on the protocol card."""
    name = NAMES[settings["name"]]
    if settings["name"] == "sgd":
        nesterov = "Nesterov " if settings["nesterov"] else ""
        name += f" with {nesterov}momentum {settings['momentum']:g}"
    falls = f"x{settings['gamma']:g} every {settings['step']} epochs"
    if settings["schedule"] == "cosine":
        falls = f"cosine to {settings['min_lr']:g}"
    elif settings["gamma"] == 1:
        falls = "constant"
    elif settings["steps"]:
        falls = f"x{settings['gamma']:g} at epochs {', '.join(map(str, settings['steps']))}"
    text = f"{name}, lr {settings['lr']:g}, weight decay {settings['weight_decay']:g}, {falls}"
    if settings["warmup"]:
        text += f", warm-up from x{settings['warmup_start']:g} over {settings['warmup']} epochs"
    if settings["backbone_lr_mult"] != 1.0:
        text += f", trunk x{settings['backbone_lr_mult']:g}"
    if settings["layer_decay"] != 1.0:
        text += f", x{settings['layer_decay']:g} for each layer below the head"
    if settings["clip"] is not None:
        text += f", gradients clipped to norm {settings['clip']:g}"
    if settings["reset_with_labels"]:
        text += ", renewed with the labels"
    return text


def check_optimizer(settings: Mapping[str, Any], where: str = "") -> None:
    """Check the options that depend on each other; `where` is a prefix ("stages.student: ").

    Raises ConfigError for milestones that do not rise, momentum for Adam, or a rising cosine.
    """
    steps = list(settings["steps"] or [])
    if steps != sorted(set(steps)):
        raise ConfigError(
            f"{where}optimizer.steps={steps} must be epochs in rising order.",
            "For example optimizer.steps=[20,40]; null uses optimizer.step instead.",
        )
    for key, default in _SGD_ONLY.items():
        if settings["name"] != "sgd" and settings[key] != default:
            name = NAMES[settings["name"]]
            raise ConfigError(
                f"{where}optimizer.{key}={settings[key]} has no effect on {name}.",
                f"Set optimizer.name=sgd or optimizer.{key}={default}.",
            )
    if settings["schedule"] == "cosine" and steps:
        raise ConfigError(
            f"{where}optimizer.steps={steps} has no effect on a cosine schedule.",
            "Set optimizer.steps=null or optimizer.schedule=step.",
        )
    if settings["schedule"] != "cosine" and settings["min_lr"]:
        raise ConfigError(
            f"{where}optimizer.min_lr={settings['min_lr']} is for a cosine schedule.",
            "Set optimizer.schedule=cosine or optimizer.min_lr=0.",
        )
    if settings["min_lr"] > settings["lr"]:
        raise ConfigError(
            f"{where}optimizer.min_lr={settings['min_lr']} is above optimizer.lr={settings['lr']}.",
            "Set it to optimizer.lr or less.",
        )
    if settings["nesterov"] and not settings["momentum"]:
        raise ConfigError(
            f"{where}optimizer.nesterov=true needs momentum.", "The usual value is 0.9."
        )
