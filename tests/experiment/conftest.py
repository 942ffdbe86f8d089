"""A finished run that several tests compare with."""

from __future__ import annotations

import pytest

from harness.experiment.run import run_experiment
from harness.results.store import Run
from tests.tiny import tiny_config


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A whole MSKD run."""
    return run_experiment(tiny_config(tmp_path_factory.mktemp("reference"), "method=mskd"))
