"""Fixtures shared with the tests of data sets."""

from __future__ import annotations

from tests.datasets.conftest import dataset_module as dataset_module
