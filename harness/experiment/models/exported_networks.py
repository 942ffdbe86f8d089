"""Networks in exported files, as backbones: ONNX, TorchScript and safetensors."""

from __future__ import annotations

import importlib
import io
import json
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from harness.components import backbones
from harness.components.backbones.weight_layouts import find_state
from harness.core.errors import ConfigError, DataError, HarnessError, first_line, say_once
from harness.core.hashing import hexdigest
from harness.core.interfaces import Backbone
from harness.experiment.finished_networks import load_weights, without_weights
from harness.experiment.models.description import EXPORT_AGAIN, KEY, Description, parse
from harness.experiment.stages import build_backbone, target_of

#: modules whose functions and classes a file may name as its backbone
OWN = "harness.components.backbones"
PLUGINS = "harness_plugins."
INSTALL = 'pip install "usl-reid-harness[export]"'
#: the description's name among TorchScript's extra files
EXTRA_FILE = f"{KEY}.json"


class UnitFeatures(nn.Module):
    """A backbone with L2-normalized views: images (B, 3, H, W) → features (B, V, D) float32."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.backbone(images).float(), dim=-1)


class ExportedNetwork(Backbone):
    """The frame of networks that other libraries run."""

    def __init__(self, description: Description, origin: str) -> None:
        super().__init__()
        self.views, self.dim = description.views, description.dim
        self.preprocessing = description.input
        self.origin = origin

    def checked(self, features: Tensor, images: Tensor) -> Tensor:
        """The features (B, V, D), if they are what the description says."""
        expected = (len(images), len(self.views), self.dim)
        if tuple(features.shape) != expected:
            raise DataError(
                f"{self.origin} returns features of shape {tuple(features.shape)}, not {expected} "
                "as its description says.",
                EXPORT_AGAIN,
            )
        return features

    def failed(self, error: Exception) -> HarnessError:
        """The error for a network that does not run."""
        return HarnessError(
            f"{self.origin} cannot be run: {first_line(error)}.",
            f"Try --device cpu. {EXPORT_AGAIN}",
        )


class OnnxNetwork(ExportedNetwork):
    """A network that onnxruntime runs, on the CPU, or on a GPU if it is built for it."""

    def __init__(
        self, session: Any, description: Description, origin: str, device: torch.device
    ) -> None:
        super().__init__(description, origin)
        self.session = session
        if device.type == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
            say_once(f"{origin} runs on the CPU: onnxruntime has no GPU support here.")

    def forward(self, images: Tensor) -> Tensor:
        array = images.float().cpu().contiguous().numpy()
        try:
            (found,) = self.session.run(None, {self.session.get_inputs()[0].name: array})
        except Exception as error:  # whatever onnxruntime raises
            raise self.failed(error) from error
        return self.checked(torch.from_numpy(found), images).to(images.device)


class TorchScriptNetwork(ExportedNetwork):
    """A network that TorchScript runs."""

    def __init__(self, module: Any, description: Description, origin: str) -> None:
        super().__init__(description, origin)
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        try:
            with torch.autocast(images.device.type, enabled=False):
                found = self.module(images.float())
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise self.failed(error) from error
        return self.checked(found, images)


def onnx_session(content: bytes, device: torch.device) -> Any:
    """An onnxruntime session. ConfigError if onnxruntime is missing; its own errors otherwise."""
    ort = import_extra("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised, too
    known = ort.get_available_providers()
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [name for name in wanted if name in known] + ["CPUExecutionProvider"]
    # of a damaged file, onnxruntime would print what it tries next
    fallback = int(len(providers) > 1)
    return ort.InferenceSession(content, options, providers=providers, enable_fallback=fallback)


def import_extra(name: str) -> Any:
    """A package of the extra `export`; a ConfigError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(f"This needs the package {name}.", INSTALL) from error


def read_onnx(content: bytes, origin: str, device: torch.device) -> tuple[Backbone, Description]:
    """The network of an ONNX file.

    Raises:
        ConfigError: onnxruntime is missing. DataError: the file is damaged, or not ours.
    """
    import_extra("onnxruntime")
    try:
        session = onnx_session(content, device)
        metadata = session.get_modelmeta().custom_metadata_map
    except Exception as error:  # whatever onnxruntime raises
        raise _damaged(origin, error) from error
    description = parse(metadata.get(KEY), origin)
    return OnnxNetwork(session, description, origin, device), description


def read_torchscript(
    content: bytes, origin: str, device: torch.device
) -> tuple[Backbone, Description]:
    """The network of a TorchScript file.

    Raises:
        DataError: the file is damaged, or not ours.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            damaged = archive.testzip()
        if not any("/code/" in name for name in names):
            raise DataError(
                f"{origin} holds weights without a network.",
                "Give the run itself (its name or folder, with --stage), or a file of harness "
                "export.",
            )
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        found = {EXTRA_FILE: ""}
        with quiet_torchscript():
            module = torch.jit.load(io.BytesIO(content), map_location=device, _extra_files=found)
    except DataError:
        raise
    except Exception as error:  # whatever zipfile and torch raise
        raise _damaged(origin, error) from error
    description = parse(found[EXTRA_FILE], origin)
    for key, value in module.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            find_state({key: value}, origin)  # raises
    return TorchScriptNetwork(module.eval(), description, origin), description


def read_safetensors(content: bytes, origin: str) -> tuple[Backbone, Description]:
    """The network of a safetensors file, built from the configuration in its metadata.

    Raises:
        DataError: the file is damaged, not ours, or of a backbone that is not here.
    """
    from safetensors.torch import load

    try:
        state = load(content)
        header = _safetensors_metadata(content)
    except Exception as error:  # whatever safetensors raises
        raise _damaged(origin, error) from error
    description = parse(header.get(KEY), origin)
    if description.checksum != checksum(state):
        raise DataError(
            f"{origin} is damaged: its weights have another checksum.",
            f"Copy it again. {EXPORT_AGAIN}",
        )
    description = description.model_copy(update={"checksum": None})
    node = description.backbone
    check_backbone(node, origin)
    try:
        backbone = build_backbone(without_weights(OmegaConf.create(node)))
        state = find_state(state, origin)
        load_weights(backbone, state, origin, EXPORT_AGAIN)
    except ConfigError as error:
        raise DataError(f"{origin}: {error.cause}", error.hint or EXPORT_AGAIN) from error
    if (tuple(backbone.views), backbone.dim) != (description.views, description.dim):
        raise DataError(f"{origin}: its description does not fit its backbone.", EXPORT_AGAIN)
    backbone.preprocessing = description.input
    return backbone, description


def write_safetensors(state: Mapping[str, Tensor], description: Description) -> bytes:
    """The content of a file that `read_safetensors` reads."""
    from safetensors.torch import save

    plain = {key: value.contiguous() for key, value in state.items()}
    description = description.model_copy(update={"checksum": checksum(plain)})
    # one key only: safetensors writes several in random order, and zoos compare files
    return save(plain, metadata={KEY: description.to_json()})


def checksum(state: Mapping[str, Tensor]) -> str:
    """Digest of weights, their names, types and shapes. safetensors itself has none."""

    def content() -> Iterator[bytes]:
        for key, value in sorted(state.items()):
            yield f"{key} {value.dtype} {tuple(value.shape)} ".encode()
            yield value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

    return hexdigest(content())


def _safetensors_metadata(content: bytes) -> dict[str, str]:
    """The metadata in the header; `safetensors` itself reads them from files only."""
    length = int.from_bytes(content[:8], "little")
    found = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    return found if isinstance(found, dict) else {}


def check_backbone(node: Mapping[str, Any], origin: str) -> None:
    """Refuse a configuration from a file that would build anything but a backbone.

    A configuration names the Python function that is called. Files come from anywhere, so only the
    backbones of the harness and of the user's own plug-ins are allowed, with plain options.
    """
    target = str(node.get("_target_"))
    module, _, name = target.rpartition(".")
    own = module == OWN and name in backbones.__all__
    if not own and not target.startswith(PLUGINS):
        raise DataError(f"{origin} names {target} as its backbone, which is none.", EXPORT_AGAIN)
    options = {key: value for key, value in node.items() if key != "_target_"}
    values: list[Any] = [options]
    for value in values:  # it grows
        if isinstance(value, dict):
            values += value.values()
            if any(str(key).startswith("_") for key in value):
                raise DataError(f"{origin}: its backbone has options of Hydra.", EXPORT_AGAIN)
        elif isinstance(value, list | tuple):
            values += value
        elif isinstance(value, str) and "${" in value:
            raise DataError(f"{origin}: an option of its backbone is a reference.", EXPORT_AGAIN)
    try:
        found = target_of(target, "backbone")
    except ConfigError as error:
        raise DataError(
            f"{origin} needs the backbone {target}: {error.cause}",
            "Add the plug-in that it was trained with: --plugins DIR or $HARNESS_PLUGINS.",
        ) from error
    if not own and not (isinstance(found, type) and issubclass(found, Backbone)):
        raise DataError(f"{origin} names {target} as its backbone, which is none.", EXPORT_AGAIN)


@contextmanager
def quiet_torchscript() -> Iterator[None]:
    """A context without torch's notices that TorchScript is no longer developed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _damaged(origin: str, error: Exception) -> DataError:
    return DataError(
        f"{origin} cannot be read: {type(error).__name__}: {first_line(error)[:200]}",
        "It is damaged or incomplete, or its name has the wrong ending. Copy it again. "
        f"{EXPORT_AGAIN}",
    )
