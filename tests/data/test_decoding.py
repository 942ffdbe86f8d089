"""Images rendered in several processes: the same images and errors as with threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import DataError, HarnessError
from harness.data import decoding
from harness.data.image_cache import build_image_cache, find_bad
from harness.data.image_source import Subset
from tests.data.rendered import Rendered


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them, also for a few images."""
    monkeypatch.setattr(decoding, "MIN_IMAGES", 1)
    monkeypatch.setattr(decoding, "cores", lambda: 2)


def test_the_same_images_in_the_same_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Subset(Rendered(200), np.arange(150)[::-1])
    assert decoding.use_processes(source)
    by_processes = build_image_cache(source, (16, 8), tmp_path / "a").images
    monkeypatch.setattr(decoding, "MIN_IMAGES", 1000)
    assert not decoding.use_processes(source)
    np.testing.assert_array_equal(
        by_processes, build_image_cache(source, (16, 8), tmp_path / "b").images
    )
    assert by_processes[:, 0, 0, 0].tolist() == list(range(149, -1, -1))


def test_one_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 40 images cannot be decoded: 20\.png"):
        build_image_cache(Rendered(40, "bad"), (16, 8), tmp_path)
    kept = build_image_cache(Rendered(40, "bad"), (16, 8), tmp_path, on_bad_image="skip")
    assert len(kept) == 39 and kept.bad == ("20.png",)
    assert find_bad(Rendered(40, "bad")) == ["20.png"]


def test_a_disk_that_fails_is_no_bad_image(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read from disk: .*Input/output error"):
        build_image_cache(Rendered(40, "disk"), (16, 8), tmp_path, on_bad_image="skip")
    assert not list(tmp_path.glob("*.npy"))


def test_a_process_that_dies(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="process that renders images has stopped"):
        build_image_cache(Rendered(40, "dies"), (16, 8), tmp_path)
