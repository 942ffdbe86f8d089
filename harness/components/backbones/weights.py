"""Initial weights: torchvision's ImageNet weights, a file, or none."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.core.errors import ConfigError, DataError, first_line
from harness.core.tensor_files import load_verified

Weights = Annotated[
    str, Field(description="initial weights: imagenet, none, or a file with torchvision's keys")
]


def describe_weights(weights: str) -> str:
    """The weights' entry in the protocol card: `imagenet`, `none`, or a file's SHA-256.

    Raises:
        ConfigError: the file does not exist.
    """
    if weights in ("none", "imagenet"):
        return "imagenet (torchvision)" if weights == "imagenet" else "none"
    path = Path(weights).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"backbone.weights={weights}: there is no such file.",
            "Give a state-dict file, 'imagenet' (downloaded by torchvision) or 'none'.",
        )
    return f"{path.name} sha256:{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file, or from `state_dict` of a larger checkpoint; none of its code runs.

    Raises:
        DataError: the file cannot be read, is damaged, or holds something else.
    """
    try:
        state = load_verified(path)
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, UnpicklingError):  # torch's text advises to run the file's code
            why = "it is damaged, or holds Python objects, which are never loaded"
        elif isinstance(error, zipfile.BadZipFile | RuntimeError | EOFError):
            why = f"it is damaged: {shorten(first_line(error), 100)}"
        raise DataError(
            f"{path} cannot be read as weights ({why}).",
            "It must be a state dict saved by torch.save, holding tensors only. overwrite=always "
            "makes a damaged network of a run again.",
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    entries = state.items() if isinstance(state, dict) else [(0, state)]
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in entries):
        raise DataError(
            f"{path} holds no state dict of names and tensors.",
            "Save module.state_dict() with torch.save.",
        )
    return state


def imagenet_state(arch: str) -> dict[str, Tensor]:
    """torchvision's first-generation ImageNet weights of `arch`, which it downloads once."""
    import torchvision

    weights = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"]
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise DataError(
            f"ImageNet weights of {arch} cannot be downloaded ({type(error).__name__}: {error}).",
            f"Without internet: copy {Path(weights.url).name} into {cache}, or use other weights "
            "(backbone.weights=PATH) or none (backbone.weights=none).",
        ) from error


def load_weights(trunk: nn.Module, weights: str, arch: str = "") -> None:
    """Load the weights that `backbone.weights` names into a network without its classifier.

    Raises:
        DataError: they cannot be had, or do not fit.
    """
    if weights == "imagenet":
        load_trunk(trunk, imagenet_state(arch), "torchvision")
    elif weights != "none":
        load_trunk(trunk, read_state(Path(weights).expanduser()), Path(weights).name)


def load_trunk(trunk: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Load a classifier's state dict, or raise a DataError if keys or shapes do not fit."""
    state = {k: v for k, v in state.items() if not k.startswith(("fc.", "classifier."))}
    own = trunk.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own]
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    lines = []
    for word, keys in (("missing", missing), ("unknown", extra), ("of another shape", wrong)):
        if keys:
            more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
            lines.append(f"{len(keys)} {word} ({', '.join(keys[:4])}{more})")
    if lines:
        raise DataError(
            f"The weights of {origin} do not fit the backbone: {'; '.join(lines)}.",
            "Choose the backbone that they belong to (harness list backbones).",
        )
    trunk.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, strict=False)
