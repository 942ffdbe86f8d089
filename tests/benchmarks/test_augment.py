"""Augmented batches beside the usual DataLoader with PIL, on the same images in the same run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from harness.benchmarks.pipeline import measure


@pytest.fixture(autouse=True)
def all_threads() -> Iterator[None]:
    """In place of the other benchmarks' own: this one counts whether they are enabled or not."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_eight_times_the_usual_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the work of cores, which other processes do not change as they change the clock."""
    pytest.importorskip("numba")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    device = torch.device("cpu")
    changes = ("batch.identities=8", "images.height=256", "images.width=128")
    found = measure("augment", changes, device, images=512, steps=8, with_reference=True)
    assert found["ratio_per_core"] > 8, found
