"""Load a trained network by a run, an exported file, or a name in the zoo."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.core import plugins
from harness.core.errors import ConfigError, DataError
from harness.core.files import expanded, shown
from harness.core.hashing import hexdigest
from harness.core.interfaces import Backbone
from harness.core.precision import resolve_device
from harness.experiment.evaluate import find_stage
from harness.experiment.finished_networks import backbone_config, load_network, weights_of
from harness.experiment.models import zoo
from harness.experiment.models.description import Description, describe
from harness.experiment.models.exported_networks import (
    read_onnx,
    read_safetensors,
    read_torchscript,
)
from harness.experiment.models.model import Model, chosen_precision
from harness.results.store import Run, Store

#: how names of exported files end
SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}


def load_model(
    name: str | Path,
    *,
    stage: str | None = None,
    device: str = "auto",
    precision: str | None = None,
    store: str | Path = "results/runs",
) -> Model:
    """A trained network in evaluation mode, with its preprocessing.

    Args:
        name: a finished run (its folder, name, or the beginning of its name in `store`), a file of
            `harness export`, or a name of `harness list models`.
        stage: of a run; by default the last one.
        device: auto, cpu or cuda.
        precision: fp32, tf32, bf16 or fp16; by default what the run was trained and tested in, or
            fp32 where the device computes that slowly. ONNX and TorchScript always use fp32.

    Raises:
        ConfigError: there is no such model, or the run is unfinished or kept no weights.
        DataError: a file is damaged, or was not written by `harness export`.
    """
    on = resolve_device(device)
    path = expanded(name)
    known = zoo.load()
    if path.is_file():
        file, origin = path, shown(path)
    elif str(name) in known.models:
        file, origin = known.fetch(str(name)), f"model {name}"
    elif path.suffix in SUFFIXES.values():
        raise ConfigError(f"There is no file {shown(path)}.", "Write it: harness export RUN.")
    else:
        run = _find_run(str(name), Path(store), list(known.models))
        return model_of_run(run, find_stage(run, stage), on, precision)
    if stage is not None:
        raise ConfigError(f"stage={stage}, but {origin} holds one network.", "Leave stage out.")
    return model_of_file(file, origin, on, precision)


def _find_run(name: str, store: Path, models: list[str]) -> Run:
    try:
        return Store(store).find(name)
    except ConfigError as error:
        path = expanded(name)
        cause = error.cause
        if path.is_dir():
            cause = f"{shown(path)} is no run: it has no config.json."
        models_known = f"Models of the zoo: {', '.join(models)}. " if models else ""
        hint = f"{error.hint} {models_known}Runs: harness list runs."
        raise ConfigError(cause, hint.strip()) from error


def model_of_run(run: Run, stage: str, device: torch.device, precision: str | None = None) -> Model:
    """The network that a stage of a finished run ended with."""
    plugins.make_importable(plugins.find())
    backbone = load_network(run, stage)
    description = describe(run, stage, backbone, backbone_config(run, stage))
    content = weights_of(run, stage).read_bytes()
    return _model(backbone, description, content, device, precision)


def model_of_file(
    path: Path, origin: str, device: torch.device, precision: str | None = None
) -> Model:
    """The network in a file that `harness export` wrote."""
    if path.suffix not in SUFFIXES.values():
        raise ConfigError(
            f"{origin} is no model: its name ends in '{path.suffix}'.",
            f"Files of harness export end in {', '.join(SUFFIXES.values())}.",
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{origin} cannot be read: {error.strerror}.") from error
    if path.suffix == SUFFIXES["safetensors"]:
        plugins.make_importable(plugins.find())
        network, description = read_safetensors(content, origin)
    elif path.suffix == SUFFIXES["onnx"]:
        network, description = read_onnx(content, origin, device)
    else:
        network, description = read_torchscript(content, origin, device)
    if path.suffix != SUFFIXES["safetensors"]:
        if precision not in (None, "fp32"):
            raise ConfigError(f"{origin} computes in fp32, not {precision}.", "Load the run.")
        precision = "fp32"
    return _model(network, description, content, device, precision)


def _model(
    network: Backbone, description: Description, content: bytes, device: torch.device,
    precision: str | None,
) -> Model:  # fmt: skip
    chosen = chosen_precision(precision, description.precision, device)
    digest = hexdigest([description.to_json().encode(), content])
    return Model(network.to(device).eval(), description, digest, device, chosen)
