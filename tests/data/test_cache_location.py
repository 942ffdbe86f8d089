"""Cache locations: chosen by free memory, logged, refused early, without effect on results."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from harness.core.errors import ConfigError
from harness.core.host_memory import free_memory
from harness.data import cache_location
from harness.data.cache_location import check_cache_location, choose_location
from harness.data.image_cache import ImageCache
from harness.data.prefetcher import ImageReader
from harness.experiment.run import run_experiment
from tests.same import assert_same
from tests.tiny import tiny_config

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GB = 10**9


@pytest.mark.parametrize(
    ("requested", "size", "free", "host", "expected"),
    [
        ("auto", 1.3, 70, 100, "device"),  # Market-1501 on a large GPU
        ("auto", 1.3, 5.3, 100, "device"),
        ("auto", 1.3, 5.1, 100, "pinned"),  # more than a quarter of what is free
        ("auto", 3.2, 8, 9, "pinned"),  # MSMT17 on a small one: rounded up to 4.3 of 9
        ("auto", 3.2, 8, 8, "mmap"),
        ("auto", 3.2, 8, None, "mmap"),  # free memory is unknown
        ("device", 3.2, 4, 100, "device"),
        ("pinned", 1.3, 70, 1, "pinned"),
        ("mmap", 1.3, 70, 100, "mmap"),
    ],
)
def test_chosen_by_what_is_free(
    requested: str, size: float, free: float, host: float | None, expected: str
) -> None:
    room = None if host is None else int(host * GB)
    location = choose_location(requested, int(size * GB), GPU, int(free * GB), room)
    assert location.name == expected


def test_on_a_cpu() -> None:
    assert choose_location("auto", GB, CPU, None, 9 * GB).name == "mmap"
    assert choose_location("device", GB, CPU, None, 9 * GB).name == "device"
    with pytest.raises(ConfigError, match=r"1\.0 GB, but only 0\.5 GB of main memory"):
        choose_location("device", GB, CPU, None, GB // 2)


def test_the_processes_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """They place their images at the same time and find the same memory free."""
    cache = cast(
        ImageCache,
        SimpleNamespace(images=np.zeros(GB // 1000, np.uint8), tensor=lambda _: torch.empty(0)),
    )
    monkeypatch.setattr(cache_location, "free_memory", lambda: 3 * GB // 1000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert cache_location.place_images("device", cache, CPU)[1].name == "device"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="main memory are free"):
        cache_location.place_images("device", cache, CPU)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"3\.2 GB, but only 2\.0 GB of GPU memory") as caught:
        choose_location("device", int(3.2 * GB), GPU, 2 * GB, None)
    assert caught.value.hint and "auto" in caught.value.hint


def test_nonsense_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a GPU"):
        check_cache_location("pinned", CPU)
    check_cache_location("pinned", GPU)
    config = tiny_config(tmp_path, "method=mskd", "data.cache_location=devise")
    with pytest.raises(ConfigError, match="devise") as caught:
        run_experiment(config)
    assert caught.value.hint and "'device'" in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_free_memory_is_a_number_of_bytes() -> None:
    free = free_memory()
    assert free is None or 10**6 < free < 10**14


def test_all_locations_give_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ICE uses every kind of image in a batch: two augmentations and plain images."""
    runs, logs = {}, {}
    for place in ("mmap", "device", "gathered"):
        if place == "gathered":  # as from pinned or mapped memory to a GPU
            monkeypatch.setattr(
                "harness.training.batches.ImageReader", partial(ImageReader, gathers=True)
            )
            monkeypatch.setattr(
                "harness.training.extraction.ImageReader", partial(ImageReader, gathers=True)
            )
        location = "mmap" if place == "gathered" else place
        config = tiny_config(
            tmp_path / place, "method=ice", f"data.cache_location={location}", "images.blur=0.5"
        )
        runs[place], logs[place] = run_experiment(config), capsys.readouterr().out
        assert runs[place].record["pipeline"]["image_cache"] == location
    for other in ("device", "gathered"):
        assert runs[other].name == runs["mmap"].name, (
            "the location is not a setting of the experiment"
        )
        assert_same(runs["mmap"], runs[other])
    assert "training images" in logs["mmap"] and "in the image cache's file" in logs["mmap"]
    assert "in main memory" in logs["device"]
