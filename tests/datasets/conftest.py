"""Data sets are plug-ins, not packages: tests get their modules through the alias."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest

from harness.experiment.registration import register


@pytest.fixture(scope="session")
def dataset_module() -> Callable[[str], ModuleType]:
    """`dataset_module("folder")` is `datasets/folder/dataset.py`."""
    register()
    return lambda name: importlib.import_module(f"harness_plugins.datasets.{name}.dataset")
