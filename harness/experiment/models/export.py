"""`harness export` and `harness zoo add`: a run's network as one file, checked after writing."""

from __future__ import annotations

import io
import logging
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from harness.core.errors import ConfigError, HarnessError, did_you_mean, first_line
from harness.core.files import expanded, write_atomically
from harness.core.interfaces import Backbone
from harness.data.augment import normalize
from harness.experiment.evaluate import find_stage
from harness.experiment.models import zoo
from harness.experiment.models.description import KEY, Description
from harness.experiment.models.exported_networks import (
    EXTRA_FILE,
    UnitFeatures,
    import_extra,
    quiet_torchscript,
    read_onnx,
    read_safetensors,
    read_torchscript,
    write_safetensors,
)
from harness.experiment.models.load import SUFFIXES, model_of_run
from harness.experiment.models.model import Model
from harness.experiment.stages import backbone_name
from harness.results.store import Run, Store

#: of ONNX. dynamo's exporter writes 18 at least; onnxruntime 1.18 and later run 20
OPSET = 20
#: largest difference of a feature from the network's; features have length 1
TOLERANCE = 1e-3
IMAGES = 64  # random ones, to compare with
CPU = torch.device("cpu")
#: of the extra `export`; without them ONNX cannot be written
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """A network as a file's content.

    difference: the largest one of any feature from the network's, over random images.
    """

    content: bytes
    model: Model
    difference: float


def export_run(
    run: str,
    style: str = "onnx",
    *,
    stage: str | None = None,
    output: str | Path | None = None,
    store: str | Path = "results/runs",
    force: bool = False,
) -> tuple[Path, Exported]:
    """Write the network of a finished run to one file: images (B, 3, H, W), normalized as its
    description says, → features (B, V, D) float32, L2-normalized per view. B is free.

    Args:
        style: onnx, torchscript or safetensors.
        output: by default the run's name with the format's suffix, in the current folder.

    Raises:
        ConfigError: no such run, stage or format, or the file exists.
        HarnessError: the network cannot be exported, or the file computes something else.
    """
    if style not in SUFFIXES:
        raise ConfigError(f"There is no format '{style}'.", did_you_mean(style, SUFFIXES))
    found, name = _find(run, stage, store)
    several = len(found.record["stages"]) > 1
    default = f"{found.name}-{name}" if several else found.name
    target = expanded(output or f"{default}{SUFFIXES[style]}")
    if target.suffix != SUFFIXES[style]:
        raise ConfigError(
            f"--output {target} does not end in {SUFFIXES[style]}.",
            "harness embed recognizes formats by it.",
        )
    if target.is_dir() or (target.exists() and not force):
        kind = "is a folder" if target.is_dir() else "exists"
        raise ConfigError(f"{target} {kind}.", "Add --force to overwrite it, or use --output.")
    check_packages(style)  # before the network is loaded
    exported = export_model(model_of_run(found, name, CPU, "fp32"), style)
    write_atomically(target, lambda file: file.write(exported.content))
    return target, exported


def check_packages(style: str) -> None:
    """Raise a ConfigError if a package that a format needs is not installed."""
    for package in PACKAGES if style == "onnx" else ():
        import_extra(package)


def _find(run: str, stage: str | None, store: str | Path) -> tuple[Run, str]:
    found = Store(Path(store)).find(run)
    return found, find_stage(found, stage)


def export_model(model: Model, style: str) -> Exported:
    """A model as the content of a file.

    Raises:
        ConfigError: a package of the extra `export` is missing.
        HarnessError: it cannot be exported, or the content computes something else.
    """
    write: Callable[[UnitFeatures, Tensor, Description], bytes]
    read: Callable[[bytes], tuple[Backbone, Description]]
    if style == "onnx":
        write, read = _onnx, lambda content: read_onnx(content, "the exported file", CPU)
    elif style == "torchscript":
        write, read = _torchscript, lambda c: read_torchscript(c, "the exported file", CPU)
    else:
        write, read = _safetensors, lambda c: read_safetensors(c, "the exported file")
    check_packages(style)
    network = UnitFeatures(model.network).eval()
    images = _random_images(model)
    try:
        with torch.no_grad():
            # channels last or not is no part of the file
            content = write(network, images[:2].contiguous(), model.description)
    except HarnessError:
        raise
    except Exception as error:  # whatever torch's exporters raise
        raise HarnessError(
            f"{model.description.run} cannot be exported as {style}: {first_line(error)}",
            f"Use another format: {', '.join(other for other in SUFFIXES if other != style)}.",
        ) from error
    difference = _difference(network, UnitFeatures(read(content)[0]).eval(), images)
    if not difference <= TOLERANCE:
        raise HarnessError(
            f"The exported network computes something else: features differ by {difference:.2g}, "
            f"above {TOLERANCE:g}.",
            f"Nothing was written. Use another format than {style}, and report this.",
        )
    return Exported(content, model, difference)


def _random_images(model: Model) -> Tensor:
    """(B, 3, H, W), normalized."""
    generator = torch.Generator().manual_seed(0)
    shape = (IMAGES, *model.size, 3)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return normalize(pixels, model.preprocessing)


@torch.no_grad()
def _difference(network: UnitFeatures, other: UnitFeatures, images: Tensor) -> float:
    """The largest difference of a feature, in batches of several sizes."""
    largest = 0.0
    for part in images.split([1, 15, 16, IMAGES - 32]):
        largest = max(largest, float((network(part) - other(part)).abs().max()))
    return largest


def _onnx(network: UnitFeatures, images: Tensor, description: Description) -> bytes:
    log = logging.getLogger("torch.onnx")
    level, quiet = log.level, io.StringIO()
    log.setLevel(logging.ERROR)
    try:
        with quiet_torchscript(), redirect_stdout(quiet), redirect_stderr(quiet):
            program: Any = torch.onnx.export(
                network, (images,), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=["images"], output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )  # fmt: skip
    finally:
        log.setLevel(level)
    proto = program.model_proto
    proto.producer_name, proto.producer_version = "harness", description.harness
    del proto.metadata_props[:]
    proto.metadata_props.add(key=KEY, value=description.to_json())
    for node in proto.graph.node:  # stack traces with paths of this machine
        del node.metadata_props[:]
    return proto.SerializeToString()


def _torchscript(network: UnitFeatures, images: Tensor, description: Description) -> bytes:
    buffer = io.BytesIO()
    with quiet_torchscript():
        traced = torch.jit.trace(network, images, check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={EXTRA_FILE: description.to_json()})
    return _without_debug_info(buffer)


def _without_debug_info(buffer: IO[bytes]) -> bytes:
    """A TorchScript archive without stack traces, which hold paths of this machine."""
    lean = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(lean, "w") as new:
        for member in old.infolist():
            if not member.filename.endswith(".debug_pkl"):
                new.writestr(member, old.read(member))
    return lean.getvalue()


def _safetensors(network: UnitFeatures, _: Tensor, description: Description) -> bytes:
    return write_safetensors(network.backbone.state_dict(), description)


def add_to_zoo(
    run: str,
    *,
    name: str | None = None,
    url: str | None = None,
    terms: str | None = None,
    output: str | Path | None = None,
    stage: str | None = None,
    store: str | Path = "results/runs",
) -> tuple[str, zoo.Entry, Path]:
    """Export a finished run as safetensors and add it to the zoo.

    Args:
        name: by default METHOD-DATASET-sSEED. url: where the file will be for others; by default
            its path relative to the zoo's file.
        terms: under which it may be used; by default those of its training data.
        output: the file; by default NAME.safetensors beside the zoo's file.

    Returns:
        The name, the entry, and the file.

    Raises:
        ConfigError: the run is unfinished, the name is taken, or the same network is there.
        HarnessError: the network cannot be exported, or a file cannot be written.
    """
    known = zoo.load()
    found, of_stage = _find(run, stage, store)
    record = found.record
    experiment = record["experiment"]
    dataset = str(experiment["dataset"])
    plain = f"{experiment['method']}-{dataset}-s{experiment['seed']}"
    name = name or "".join(c if zoo.NAME.fullmatch(f"a{c}") else "-" for c in plain)
    zoo.check_name(name, known)
    file = expanded(output or known.path.with_name(f"{name}.safetensors"))
    if file.suffix != SUFFIXES["safetensors"]:
        raise ConfigError(f"--output {file} does not end in .safetensors.")
    if url is None:
        folder = known.path.parent.resolve()
        if not file.resolve().is_relative_to(folder):
            raise ConfigError(
                f"{file} is outside {folder}, so the zoo cannot name it.",
                "Give the address where others will find it: --url URL.",
            )
        url = file.resolve().relative_to(folder).as_posix()
    elif problem := zoo.url_problem(url):
        raise ConfigError(f"--url {url} {problem}.")
    if terms is not None and not terms.strip():
        raise ConfigError("--terms is empty.", "Name a licence, or leave it out.")
    exported = export_model(model_of_run(found, of_stage, CPU, "fp32"), "safetensors")
    description = exported.model.description
    metrics = record["stages"][of_stage]["metrics"]
    entry = zoo.Entry(
        url=url,
        sha256=zoo.sha256_of(exported.content),
        size=len(exported.content),
        backbone=backbone_name(description.backbone),
        dataset=description.trained_on if description.trained_on != "–" else "nothing",
        protocol=description.protocol,
        method=description.method,
        seed=description.seed,
        mAP=_rounded(metrics.get("mAP")),
        rank1=_rounded(metrics.get("rank1")),
        terms=(terms or f"the terms of {dataset} apply (datasets/{dataset}/README.md)").strip(),
    )
    zoo.add(name, entry, exported.content, file, known.path)
    return name, entry, file


def _rounded(percent: float | None) -> float | None:
    return None if percent is None else round(percent, 2)
