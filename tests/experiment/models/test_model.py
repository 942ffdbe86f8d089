"""`harness.load_model`: the same features as those of tests, whatever form images have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import harness
from harness.core.errors import ConfigError, DataError
from harness.evaluation import kept_features
from harness.experiment.models.load import load_model
from harness.experiment.models.model import Model
from harness.results.store import Run


def queries(people: Path) -> list[Path]:
    return [people / f"{identity}_0.png" for identity in range(4, 8)]


def test_features_are_those_that_the_run_kept(model: Model, run: Run, people: Path) -> None:
    features = model.embed(queries(people))
    assert features.shape == (4, 8) and features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)
    kept = kept_features.load(run.folder, "train")
    assert kept is not None
    np.testing.assert_allclose(features, kept.query.numpy(), atol=1e-3)


def test_what_it_knows(model: Model, run: Run) -> None:
    assert (model.dim, model.views, model.size) == (8, ("global", "upper"), (32, 16))
    assert model.preprocessing.interpolation == "bicubic"
    assert not model.network.training and model.precision == run.config()["train"]["precision"]
    assert run.name in repr(model)


def test_forms_of_images(model: Model, people: Path) -> None:
    """Paths, Pillow images, arrays of any size, one image, and any batch size."""
    paths = queries(people)
    expected = model.embed(paths)
    opened = [Image.open(path) for path in paths]
    arrays = np.stack([np.asarray(image.convert("RGB")) for image in opened])
    for images in (list(map(str, paths)), opened, list(arrays), arrays, (p for p in paths)):
        np.testing.assert_array_equal(model.embed(images), expected)
    for image in (paths[1], str(paths[1]), opened[1], arrays[1]):
        np.testing.assert_allclose(model.embed(image), expected[1:2], atol=1e-6)
    np.testing.assert_allclose(model.embed(paths, batch=3), expected, atol=1e-6)
    views = model.embed(paths, views="all")
    assert views.shape == (4, 2, 8)
    np.testing.assert_array_equal(views[:, 0], expected)
    assert model.embed([]).shape == (0, 8)
    large = np.random.default_rng(0).integers(0, 255, (90, 50, 3), dtype=np.uint8)
    assert model.embed([large, large[..., 0]]).shape == (2, 8)


def test_what_is_no_image(model: Model, people: Path, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("text")
    cases: dict[str, tuple[Any, str]] = {
        "missing": (["nowhere.png"], "no file nowhere.png"),
        "text": ([tmp_path / "no.png"], "1 of 1 images cannot be decoded"),
        "floats": (np.zeros((2, 32, 16, 3)), "Image 0 is float64"),
        "channels first": (np.zeros((3, 32, 16), dtype=np.uint8), r"of shape \(3, 32, 16\)"),
        "tensor": ([torch.zeros(3, 32, 16)], "of type Tensor"),
        "batch": (None, "A batch of 0 images"),
        "views": (None, "views=upper"),
    }
    for name, (images, message) in cases.items():
        options: Any = {"batch": {"batch": 0}, "views": {"views": "upper"}}.get(name, {})
        with pytest.raises((ConfigError, DataError), match=message):
            model.embed(queries(people) if images is None else images, **options)


def test_what_is_no_model(run: Run, people: Path, tmp_path: Path) -> None:
    store: dict[str, Any] = {"store": run.folder.parent, "device": "cpu"}
    assert harness.load_model(run.name[:12], **store).digest == load_model(run.folder).digest
    unfinished = tmp_path / "runs" / "unfinished"
    unfinished.mkdir(parents=True)
    shutil.copy(run.folder / "config.json", unfinished)
    without = tmp_path / "runs" / "without"
    shutil.copytree(run.folder, without)
    (without / "train.pt").unlink()
    (tmp_path / "model.bin").touch()
    cases = {
        "nothing": "There is no run 'nothing'",
        "model.onnx": "There is no file model.onnx",
        str(people): "is no run: it has no config.json",
        str(tmp_path / "model.bin"): "is no model: its name ends in '.bin'",
        str(unfinished): "is not finished",
        str(without): "kept no weights",
        str(run.folder / "train.pt"): "holds weights without a network",
    }
    for name, message in cases.items():
        with pytest.raises((ConfigError, DataError), match=message) as caught:
            load_model(name, **store)
        assert caught.value.hint
    with pytest.raises(ConfigError, match="no stage 'teacher'"):
        load_model(run.folder, stage="teacher")
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        load_model(run.folder, device="cpu", precision="fp16")


def test_weights_that_are_not_finite(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / run.name
    shutil.copytree(run.folder, folder)
    state = torch.load(folder / "train.pt", weights_only=True)
    next(iter(state.values())).fill_(float("nan"))
    torch.save(state, folder / "train.pt")
    with pytest.raises(DataError, match="not finite"):
        load_model(folder)


def test_a_description_holds_no_path(model: Model, place: Path) -> None:
    text = model.description.to_json()
    assert str(place) not in text
    assert json.loads(text)["backbone"]["weights"] == "none"
