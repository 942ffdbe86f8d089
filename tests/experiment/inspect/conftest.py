"""A tiny finished run with its weights, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.experiment.run import run_experiment
from harness.results.store import Run
from tests.tiny import tiny_config


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of data and runs."""
    return tmp_path_factory.mktemp("figures")


@pytest.fixture(scope="package")
def run(place: Path) -> Run:
    """MSKD: three views, teacher and student. Do not change it."""
    return run_experiment(tiny_config(place, "method=mskd"))
