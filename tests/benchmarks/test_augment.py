"""Augmented batches in turns with the DataLoader baseline, on the same images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.benchmarks.pipeline import measure


@pytest.mark.slow
@pytest.mark.usefixtures("all_threads")
def test_eight_times_the_dataloader_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images per CPU second, which other load on the machine does not change."""
    pytest.importorskip("numba")
    monkeypatch.setenv("HARNESS_DATA", str(tmp_path))
    overrides = ("batch.identities=8", "images.height=256", "images.width=128")
    found = measure(
        "augment", overrides, torch.device("cpu"), images=512, steps=8, with_baseline=True
    )
    assert found["ratios"]["baseline"]["images_per_core_second"] > 8, found
