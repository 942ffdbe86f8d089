"""Initial weights: torchvision's ImageNet weights, a file, or none."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from harness.core.errors import ConfigError, DataError, first_line

Weights = Annotated[
    str,
    Field(
        description="initial weights: imagenet (torchvision downloads them), none, or a file with "
        "a torchvision-keyed state dict"
    ),
]


def describe_weights(weights: str) -> str:
    """What stands in the protocol card: `imagenet`, `none`, or a file's SHA-256, never a path.

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
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"{path.name} sha256:{digest.hexdigest()[:16]}"


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from a file, read with `weights_only=True` (no code runs on loading).

    It may stand under the key `state_dict` of a larger checkpoint.

    Raises:
        DataError: the file cannot be read so, or holds something else.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as a file of weights ({type(error).__name__}: "
            f"{first_line(error)}).",
            "It must be a state dict saved by torch.save, holding tensors only.",
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise DataError(
            f"{path} holds no state dict (names and tensors) but something else.",
            "Save module.state_dict() with torch.save.",
        )
    return state


def imagenet_state(arch: str) -> dict[str, Tensor]:
    """torchvision's first-generation ImageNet weights of `arch`, downloaded once by torchvision.

    Raises:
        DataError: they cannot be downloaded; says what to do without internet.
    """
    import torchvision

    weights = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"]
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise DataError(
            f"torchvision's ImageNet weights of {arch} cannot be downloaded "
            f"({type(error).__name__}: {error}).",
            f"Without internet: copy {Path(weights.url).name} from a machine that has it into "
            f"{cache}, or give any file of weights with backbone.weights=PATH "
            "(or start from scratch: backbone.weights=none).",
        ) from error


def load_trunk(trunk: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Load a classifier's weights into a network without its classifier.

    Raises:
        DataError: keys or shapes do not fit; names them.
    """
    state = {k: v for k, v in state.items() if not k.startswith(("fc.", "classifier."))}
    own = trunk.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own]
    wrong = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or extra or wrong:
        lines = []
        for word, keys in (("missing", missing), ("unknown", extra), ("of another shape", wrong)):
            if keys:
                more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
                lines.append(f"{len(keys)} {word} ({', '.join(keys[:4])}{more})")
        raise DataError(
            f"The weights of {origin} do not fit the backbone: {'; '.join(lines)}.",
            "Choose the backbone that they were made for (harness list backbones).",
        )
    trunk.load_state_dict({k: v.to(own[k].dtype) for k, v in state.items()}, strict=False)
