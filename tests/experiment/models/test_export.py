"""`harness export`: every format computes what the network does, and files are not trusted."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from harness.components import backbones
from harness.core.errors import ConfigError, DataError, HarnessError
from harness.core.interfaces import Backbone
from harness.experiment.models import export as exporting
from harness.experiment.models import exported_networks
from harness.experiment.models.description import KEY, Description, parse
from harness.experiment.models.export import export_model, export_run
from harness.experiment.models.exported_networks import write_safetensors
from harness.experiment.models.load import SUFFIXES, load_model, model_of_file
from harness.experiment.models.model import Model
from harness.results.store import Run
from tests.conftest import Command

CPU = torch.device("cpu")


def needs(style: str) -> None:
    if style == "onnx":
        pytest.importorskip("onnxscript")
        pytest.importorskip("onnxruntime")


def untrained(name: str, pixels: tuple[int, int], **options: Any) -> Model:
    """A backbone with random weights and batch statistics as if it were trained."""
    torch.manual_seed(0)
    network: Backbone = getattr(backbones, name)(**options)
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in options.items()}
    description = Description(
        run="random", stage="train", size=pixels, views=network.views, dim=network.dim,
        preprocessing=network.preprocessing.as_dict(), precision="fp32", record="0",
        backbone={"_target_": f"harness.components.backbones.{name}", **plain},
        method="none", trained_on="nothing", protocol="none 0", seed=0,
    )  # fmt: skip
    return Model(network.eval(), description, "0", CPU, "fp32")


def small() -> Model:
    views = ("global", "upper", "lower")
    return untrained("small", (32, 16), widths=[8, 16], strides=[1, 2], views=views)


def vit() -> Model:
    views = ("global", "top", "middle", "bottom", "pooled")
    options: dict[str, Any] = {"model": "vit_tiny_patch16_224", "size": (64, 32), "views": views}
    return untrained("timm_model", (64, 32), **options, pooling="class_token")


def joined(**options: Any) -> Callable[[], Model]:
    """A transformer whose class token is joined with others, with a preprocessing of its own."""
    options |= {"model": "test_vit", "size": (64, 32), "std": [0.5, 0.25, 0.5]}
    return lambda: untrained("timm_model", (64, 32), **options, pooling="class_token")


def resnet50() -> Model:
    views = ("global", "upper", "lower")
    return untrained("resnet", (128, 64), arch="resnet50", weights="none", views=views)


MODELS = [
    pytest.param(small, id="small"),
    pytest.param(vit, id="vit", marks=pytest.mark.slow),
    pytest.param(joined(stem="ics"), id="ics", marks=pytest.mark.slow),
    pytest.param(joined(part_tokens=3), id="parts"),
    pytest.param(joined(projection=24), id="projection", marks=pytest.mark.slow),
    pytest.param(resnet50, id="resnet50", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("style", SUFFIXES)
@pytest.mark.parametrize("build", MODELS)
def test_features_are_those_of_the_network(
    build: Callable[[], Model], style: str, tmp_path: Path
) -> None:
    needs(style)
    model = build()
    made = export_model(model, style)
    assert made.difference <= 1e-4
    path = tmp_path / f"model{SUFFIXES[style]}"
    path.write_bytes(made.content)
    loaded = load_model(path, device="cpu")
    assert loaded.description == model.description
    assert loaded.preprocessing == model.preprocessing and loaded.views == model.views
    rng = np.random.default_rng(1)
    images = rng.integers(0, 255, (64, *model.size, 3), dtype=np.uint8)
    expected = model.embed(images, views="all")
    for batch in (64, 7):
        found = loaded.embed(images, batch=batch, views="all")
        assert np.abs(found - expected).max() <= 1e-4
    np.testing.assert_allclose(loaded.embed(images[:3]), expected[:3, 0], atol=1e-4)


@pytest.mark.parametrize("style", SUFFIXES)
def test_command(command: Command, run: Run, people: Path, tmp_path: Path, style: str) -> None:
    needs(style)
    words = ["export", str(run.folder), "--format", style]
    answer = command(*words)
    assert answer.status == 0, answer.err
    path = tmp_path / f"{run.name}{SUFFIXES[style]}"
    assert f"written     {path.name}" in answer.out and "global, upper" in answer.out
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    content = path.read_bytes()
    if style == "torchscript":
        with zipfile.ZipFile(path) as archive:
            content = b"".join(map(archive.read, archive.namelist()))
    assert bytes(Path(exporting.__file__).parent) not in content, "no paths of this machine"
    assert str(people.parent).encode() not in content
    answer = command(*words)
    assert answer.status == 2 and "exists" in answer.err and "--force" in answer.err
    answer = command("embed", path.name, str(people), "--out", "f.npz", "--device", "cpu")
    assert answer.status == 0, answer.err
    with np.load("f.npz") as found:
        expected = load_model(run.folder, device="cpu", precision="fp32").embed(
            [people / name for name in found["names"]]
        )
        np.testing.assert_allclose(found["features"], expected, atol=1e-5)


def test_what_cannot_be_exported(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no format 'onx'"):
        export_run(str(run.folder), "onx")
    with pytest.raises(ConfigError, match=r"does not end in \.onnx"):
        export_run(str(run.folder), output=tmp_path / "model.bin")
    with pytest.raises(ConfigError, match="no stage 'x'"):
        export_run(str(run.folder), stage="x")
    monkeypatch.setattr(exporting, "_difference", lambda *_: 0.5)
    target = tmp_path / "model.safetensors"
    with pytest.raises(HarnessError, match=r"something else: features differ by 0\.5"):
        export_run(str(run.folder), "safetensors", output=target)
    assert not target.exists()
    for package in exporting.PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(ConfigError, match=r"needs the package onnx") as caught:
        export_run(str(run.folder), "onnx", output=tmp_path / "model.onnx")
    assert "usl-reid-harness[export]" in caught.value.hint


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """The content of a file in each format."""
    found = {}
    for style in SUFFIXES:
        needs(style)
        found[style] = export_model(small(), style).content
    return found


def refused(content: bytes, style: str, tmp_path: Path, message: str) -> None:
    path = tmp_path / f"bad{SUFFIXES[style]}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load_model(path, device="cpu")
    assert caught.value.hint


@pytest.mark.parametrize("style", SUFFIXES)
def test_damaged_files(contents: dict[str, bytes], style: str, tmp_path: Path) -> None:
    content = contents[style]
    for damaged in (b"", b"PK", content[: len(content) // 2], content[:-1], b"x" * 5000):
        refused(damaged, style, tmp_path, "cannot be read")


def test_files_of_others(contents: dict[str, bytes], tmp_path: Path) -> None:
    """Without a description nothing is known of the input."""
    onnx = pytest.importorskip("onnx")
    proto = onnx.load_from_string(contents["onnx"])
    del proto.metadata_props[:]
    refused(proto.SerializeToString(), "onnx", tmp_path, "was not written by harness export")
    plain = save(load(contents["safetensors"]))
    refused(plain, "safetensors", tmp_path, "was not written by harness export")
    buffer = io.BytesIO()
    with exported_networks.quiet_torchscript():
        torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), buffer)
    refused(buffer.getvalue(), "torchscript", tmp_path, "was not written by harness export")


def metadata_of(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return metadata


def changed(content: bytes, **changes: Any) -> bytes:
    """A safetensors file with another description."""
    metadata = metadata_of(content)
    description = json.loads(metadata[KEY]) | changes
    return save(load(content), metadata=metadata | {KEY: json.dumps(description)})


TARGET = "harness.components.backbones.small"
#: what a description says → the error
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "a command": ({"backbone": {"_target_": "os.system", "command": "x"}}, "which is none"),
    "a helper": (
        {"backbone": {"_target_": "harness.components.backbones.weights.read_state"}},
        "which is none",
    ),
    "no backbone": ({"backbone": {"_target_": f"{TARGET[:-5]}describe_weights"}}, "cannot|none"),
    "a plug-in": ({"backbone": {"_target_": "harness_plugins.x.y"}}, "cannot be imported"),
    "nested": ({"backbone": {"_target_": TARGET, "views": {"_target_": "os.getcwd"}}}, "Hydra"),
    "hydra": ({"backbone": {"_target_": TARGET, "_recursive_": True}}, "options of Hydra"),
    "reference": (
        {"backbone": {"_target_": TARGET, "pooling": "${oc.env:HOME}"}}, "is a reference"
    ),
    "other widths": (
        {"backbone": {"_target_": TARGET, "widths": [8, 8], "strides": [1, 2]}}, "another backbone"
    ),
    "unknown option": ({"backbone": {"_target_": TARGET, "depth": 3}}, "depth"),
    "views": ({"views": ["global"]}, "does not fit its backbone"),
    "no size": ({"size": [0, 16]}, "size.0"),
    "format": ({"format": 2}, "another version"),
    "std": ({"preprocessing": {"mean": [0] * 3, "std": [0] * 3, "interpolation": "x"}}, "std"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_descriptions_that_are_refused(
    contents: dict[str, bytes], tmp_path: Path, case: str
) -> None:
    changes, message = HOSTILE[case]
    refused(changed(contents["safetensors"], **changes), "safetensors", tmp_path, message)


def test_weights_that_are_not_finite(contents: dict[str, bytes], tmp_path: Path) -> None:
    state = load(contents["safetensors"])
    next(value for value in state.values() if value.dim() == 4).fill_(float("nan"))
    description = parse(metadata_of(contents["safetensors"])[KEY], "it")
    refused(write_safetensors(state, description), "safetensors", tmp_path, "not finite")


def test_equal_networks_are_equal_files() -> None:
    """So that a zoo finds out whether it has a network already."""
    assert len({export_model(small(), "safetensors").content for _ in range(4)}) == 1


def test_a_flipped_bit(contents: dict[str, bytes], tmp_path: Path) -> None:
    content = bytearray(contents["safetensors"])
    content[-9] ^= 1
    refused(bytes(content), "safetensors", tmp_path, "another checksum")


def test_an_onnx_file_with_weights_that_are_not_finite(
    contents: dict[str, bytes], tmp_path: Path
) -> None:
    """onnxruntime does not check weights; the features show it."""
    onnx = pytest.importorskip("onnx")
    proto = onnx.load_from_string(contents["onnx"])
    for tensor in proto.graph.initializer:
        if len(tensor.dims) == 4:
            array = np.full(tuple(tensor.dims), np.nan, dtype=np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    path = tmp_path / "nan.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(HarnessError, match="not finite"):
        load_model(path, device="cpu").embed(Image.new("RGB", (16, 32)))


def test_options_that_a_file_does_not_have(contents: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(contents["onnx"])
    with pytest.raises(ConfigError, match="holds one network"):
        load_model(path, stage="teacher")
    with pytest.raises(ConfigError, match="computes in fp32"):
        model_of_file(path, "model.onnx", CPU, "bf16")
