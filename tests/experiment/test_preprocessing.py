"""A backbone's preprocessing is the same in the image cache, training, extraction and tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from harness.components.backbones.timm_models import TimmNet
from harness.core.errors import ConfigError
from harness.core.preprocessing import IMAGENET, Preprocessing
from harness.data.augment import normalize
from harness.data.augmentation_settings import make_augment
from harness.data.image_cache import build_image_cache
from harness.data.image_files import ImageFiles
from harness.experiment.run import run_experiment
from tests.tiny import tiny_config

OTHER = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear")


def test_normalization_and_the_fill_of_erased_rectangles() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 6, 3), dtype=np.uint8)
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (OTHER.mean, OTHER.std))
    expected = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    torch.testing.assert_close(normalize(pixels, OTHER), expected)
    images = {"height": 8, "width": 6, "flip": 0.0, "pad": 0, "erase": 1.0}
    augment = make_augment(images, OTHER)
    drawn = augment.draw(4, torch.Generator().manual_seed(0))
    erased = augment.apply(pixels, drawn)
    for one, (top, left, height, width) in zip(erased, drawn.erase.tolist(), strict=True):
        fill = one[:, top : top + height, left : left + width]
        torch.testing.assert_close(fill, torch.tensor(OTHER.mean).view(3, 1, 1).expand_as(fill))


@pytest.mark.parametrize("name", ["bicubic", "bilinear", "lanczos"])
def test_the_image_cache_resizes_as_the_backbone_wants(name: str, tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(drawn).save(tmp_path / "a.png")
    source = ImageFiles(tmp_path, ["a.png"])
    found = build_image_cache(source, (16, 8), tmp_path / "cache", interpolation=name)
    expected = Image.fromarray(drawn).resize((8, 16), Image.Resampling[name.upper()])
    assert np.array_equal(found.images[0], np.asarray(expected))
    usual = build_image_cache(source, (16, 8), tmp_path / "cache")
    assert np.array_equal(usual.images, found.images) == (name == "bicubic")


def test_a_run_sees_it_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Black padding becomes −mean / std in training; no pixel is below it in extraction."""
    seen: dict[bool, list[float]] = {True: [], False: []}
    forward = TimmNet.forward

    def spied(self: TimmNet, images: Tensor) -> Tensor:
        seen[self.training].append(float(images.min()))
        return forward(self, images)

    monkeypatch.setattr(TimmNet, "forward", spied)
    color = "[0.01,0.01,0.01]"
    cell = ("method=cluster_contrast", "backbone=timm", "backbone.model=test_resnet",
            "images.height=64", "images.width=32", "images.erase=0", "train.epochs=1")  # fmt: skip
    usual = run_experiment(tiny_config(tmp_path, *cell))
    lowest = {mode: min(values) for mode, values in seen.items()}
    assert lowest[True] == pytest.approx(-1.0), "timm's test_resnet has a mean and std of 0.5"
    for values in seen.values():
        values.clear()
    other = run_experiment(
        tiny_config(tmp_path, *cell, f"backbone.mean={color}", "backbone.std=[1,1,1]",
                    "backbone.interpolation=lanczos")
    )  # fmt: skip
    assert min(seen[True]) == pytest.approx(-0.01, abs=1e-5)
    assert min(seen[False]) >= -0.01 - 1e-5 > lowest[False]
    card = other.record["protocol"]
    assert card["normalization"] == "mean 0.01 0.01 0.01, std 1 1 1"
    assert card["interpolation"] == "lanczos"
    assert usual.record["protocol"]["normalization"] == "mean 0.5 0.5 0.5, std 0.5 0.5 0.5"


@pytest.mark.parametrize(
    "values",
    [
        {"mean": (0.5, 0.5)}, {"mean": (0.5, 0.5, 2.0)}, {"std": (0.5, 0.5, 0.0)},
        {"interpolation": "cubic"},
    ],
)  # fmt: skip
def test_impossible_values(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.(mean|std|interpolation)="):
        Preprocessing(**values)


def test_there_and_back() -> None:
    assert Preprocessing.from_dict(OTHER.as_dict()) == OTHER and IMAGENET.lines() == {}
