"""Initial weights: of torchvision, timm, a file, an address, a hub repository or a finished run."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from harness.components.backbones.weight_layouts import State, find_state, load_trunk
from harness.core.downloads import download
from harness.core.errors import ConfigError, DataError, first_line
from harness.core.files import expanded
from harness.core.tensor_files import load_verified

Weights = Annotated[
    str,
    Field(
        description="initial weights: none, imagenet, rendered, a file, a finished run's folder, "
        "https://…#sha256=…, timm:NAME or hf-hub:OWNER/NAME"
    ),
]
#: files of a hub repository that may hold weights, the preferred first
HUB_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_pytorch_model.bin")
#: weights of the small network that come with the harness, see datasets/synthetic/README.md
RENDERED = Path(__file__).with_name("rendered.safetensors")
ADDRESS = re.compile(r"(?P<url>https?://[^#\s]+)(?:#sha256=(?P<sha256>[0-9a-fA-F]{64}))?")
AGAIN = " overwrite=always makes a damaged network of a run again."
ELSEWHERE = "Give a file (backbone.weights=PATH), or none (backbone.weights=none)."


def describe_weights(weights: str) -> str:
    """The weights' entry in the protocol card: a name, or a file's name and its SHA-256.

    Raises:
        ConfigError: the file does not exist, or the address lacks its checksum.
    """
    if weights in ("none", "imagenet"):
        return "imagenet (torchvision)" if weights == "imagenet" else "none"
    if weights == "rendered":
        return f"rendered persons without labels, sha256:{_digest(RENDERED)}"
    if weights.startswith(("timm:", "hf-hub:")):
        return weights
    if ADDRESS.match(weights):
        url, sha256 = _address(weights)
        return f"{url.rsplit('/', 1)[-1]} sha256:{sha256[:16]}"
    path = _file(weights)
    return f"{path.name} sha256:{_digest(path)}"


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def is_portable(weights: str) -> bool:
    """Whether the option's value means the same on another machine."""
    named = weights in ("none", "imagenet", "rendered")
    return named or weights.startswith(("timm:", "hf-hub:", "http"))


def load_weights(trunk: nn.Module, weights: str, arch: str = "") -> None:
    """Load the weights that `backbone.weights` names into a network without its classifier.

    Raises:
        HarnessError: they cannot be had, or do not fit.
    """
    if weights != "none":
        state, origin = initial_state(weights, arch)
        load_trunk(trunk, state, origin)


def initial_state(weights: str, arch: str) -> tuple[State, str]:
    """The state dict that `backbone.weights` names, and what to call it.

    Args:
        arch: torchvision's name of the network, for `imagenet`.

    Raises:
        HarnessError: it cannot be had.
    """
    if weights == "imagenet":
        return imagenet_state(arch), "torchvision"
    if weights == "rendered":
        return read_state(RENDERED), "rendered"
    if weights.startswith("timm:"):
        return _timm_state(weights.removeprefix("timm:")), weights
    if weights.startswith("hf-hub:"):
        return read_state(_hub_file(weights.removeprefix("hf-hub:"))), weights
    if ADDRESS.match(weights):
        path = download(*_address(weights), Path(torch.hub.get_dir()) / "checkpoints")
        return read_state(path), path.name
    path = _file(weights)
    return read_state(path), path.name


def read_state(path: Path) -> State:
    """The state dict in a file of torch.save or safetensors; none of its code runs.

    Raises:
        DataError: the file cannot be read, is damaged, holds something else, or weights that are
            not finite.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = load_verified(path)
    except Exception as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        if isinstance(error, UnpicklingError):  # torch's text advises to run the file's code
            why = "it is damaged, or holds Python objects, which are never loaded"
        elif isinstance(error, zipfile.BadZipFile | RuntimeError | EOFError):
            why = f"it is damaged: {shorten(first_line(error), 100)}"
        of_run = (path.parent / "record.json").is_file()
        raise DataError(
            f"{path} cannot be read as weights ({why}).",
            "It must be a state dict saved by torch.save, holding tensors only, or a file "
            f".safetensors.{AGAIN if of_run else ''}",
        ) from error
    return find_state(content, str(path))


def imagenet_state(arch: str) -> State:
    """torchvision's first-generation ImageNet weights of `arch`, which it downloads once."""
    import torchvision

    try:
        weights = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"]
    except ValueError as error:
        raise ConfigError(
            f"torchvision has no ImageNet weights of {arch}.",
            f"backbone.pretrained=true takes timm's. {ELSEWHERE}",
        ) from error
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        raise DataError(
            f"ImageNet weights of {arch} cannot be downloaded ({type(error).__name__}: {error}).",
            f"Without internet: copy {Path(weights.url).name} into {cache}, or use other weights "
            "(backbone.weights=PATH) or none (backbone.weights=none).",
        ) from error


def _timm_state(model: str) -> State:
    """timm's own weights of a model, with the head, in timm's layout."""
    import timm

    if not timm.is_model(model.partition(".")[0]):
        raise ConfigError(
            f"backbone.weights=timm:{model}: timm has no model '{model}'.",
            "timm.list_pretrained() lists the names that have weights.",
        )
    try:
        return timm.create_model(model, pretrained=True).state_dict()
    except Exception as error:
        raise DataError(
            f"timm's weights of {model} cannot be had ({_without_advice(error)}).",
            f"They come from huggingface.co: is there internet? Without it: {ELSEWHERE}",
        ) from error


def _hub_file(name: str) -> Path:
    """The weights of a repository `owner/name` or `owner/name@revision` of huggingface.co."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ConfigError(
            f"backbone.weights=hf-hub:{name} names no repository.", "Write hf-hub:OWNER/NAME."
        )
    for file in HUB_FILES:
        try:
            return Path(hf_hub_download(repository, file, revision=revision or None))
        except LocalEntryNotFoundError as error:
            raise DataError(
                f"hf-hub:{name}: huggingface.co cannot be reached, and the repository is not in "
                "the local cache.",
                f"Without internet: {ELSEWHERE}",
            ) from error
        except EntryNotFoundError:
            continue
        except Exception as error:
            raise DataError(
                f"hf-hub:{name} cannot be downloaded ({_without_advice(error)}).",
                f"Is the name right, and the repository public? {ELSEWHERE}",
            ) from error
    raise DataError(
        f"hf-hub:{name} has none of the files {', '.join(HUB_FILES)}.",
        "Give the file's address: backbone.weights=https://huggingface.co/…#sha256=…",
    )


def _without_advice(error: Exception) -> str:
    return shorten(f"{type(error).__name__}: {first_line(error)}", 160)


def _address(weights: str) -> tuple[str, str]:
    """Address and SHA-256 of `https://…#sha256=…`."""
    found = ADDRESS.fullmatch(weights)
    if found is None or found["sha256"] is None:
        raise ConfigError(
            f"backbone.weights={weights} must end with #sha256= and 64 hex digits.",
            "An address alone may give other weights tomorrow. sha256sum FILE prints the digits.",
        )
    return found["url"], found["sha256"].lower()


def _file(weights: str) -> Path:
    """The file that a path names, in a run's folder that of its last stage.

    Raises:
        ConfigError: there is none.
    """
    path = expanded(weights)
    if path.is_dir():
        try:
            stages = json.loads((path / "record.json").read_text(encoding="utf-8"))["stages"]
            path = path / f"{list(stages)[-1]}.pt"
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ConfigError(
                f"backbone.weights={weights} is a folder without the record of a finished run.",
                "Give a finished run's folder, or a file.",
            ) from error
    if not path.is_file():
        raise ConfigError(
            f"backbone.weights={weights}: there is no such file.",
            "Give a state-dict file, 'imagenet' (downloaded by torchvision), 'none', a finished "
            "run's folder, https://…#sha256=…, timm:NAME or hf-hub:OWNER/NAME.",
        )
    return path
