"""A tiny finished run on own images, which kept its features; made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.experiment.compose import compose
from harness.experiment.models.load import load_model
from harness.experiment.models.model import Model
from harness.experiment.run import run_experiment
from harness.results.store import Run
from tests.tiny import own_images


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of `people/` (32 images and list.csv), of the data root and of the runs."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="package")
def run(place: Path) -> Run:
    """Two views, 32×16 pixels. Do not change it."""
    changes = ("evaluation.keep_features=true", "images.height=32", "images.width=16",
               "backbone.views=[global,upper]")  # fmt: skip
    return run_experiment(compose([*own_images(place), *changes]))


@pytest.fixture(scope="package")
def people(place: Path, run: Run) -> Path:
    """The folder of its images."""
    return place / "people"


@pytest.fixture(scope="package")
def model(run: Run) -> Model:
    return load_model(run.folder, device="cpu")


@pytest.fixture(autouse=True)
def no_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty zoo of the test's own; returns its file."""
    path = tmp_path / "zoo" / "zoo.yaml"
    monkeypatch.setenv("HARNESS_ZOO", str(path))
    return path
