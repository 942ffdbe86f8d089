"""Candidates take turns; summaries are medians, ratios are taken within a round."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.benchmarks.timing import Candidate, Round, compare, save
from harness.core.files import read_json

CPU = torch.device("cpu")


def test_candidates_take_turns_and_ratios_are_of_a_round() -> None:
    order: list[str] = []

    def rounds(name: str, *seconds: float) -> Callable[[], Round]:
        clock = iter(seconds)

        def once() -> Round:
            order.append(name)
            return Round(100, next(clock), {"waiting": 0.25})

        return once

    # the machine slows down by ten from the second round on; the warm-up round does not count
    candidates = [
        Candidate("a", rounds("a", 99.0, 1.0, 10.0, 10.0), {"workers": 2}),
        Candidate("b", rounds("b", 99.0, 2.0, 20.0, 30.0)),
    ]
    found = compare("train", {"batch": 4}, candidates, 3, CPU)
    assert order == ["a", "b", "a", "b", "b", "a", "a", "b"], "every second round is reversed"
    assert found["candidates"]["a"]["rounds"] == [100.0, 10.0, 10.0]
    assert found["candidates"]["a"]["images_per_second"] == 10.0
    assert found["candidates"]["a"]["spread"] == 9.0, "(100 - 10) / 10"
    assert found["candidates"]["a"]["workers"] == 2 and found["candidates"]["a"]["waiting"] == 0.25
    assert found["candidates"]["b"]["seconds"] == 20.0
    assert found["ratios"]["b"]["images_per_second"] == 2.0, "not that of medians of other rounds"
    assert found["setting"] == {"batch": 4} and found["machine"]["threads"]


def test_a_file_of_another_setting_is_kept(tmp_path: Path) -> None:
    def saved(dataset: str, rate: float) -> Path:
        setting = {"dataset": dataset, "views": ("global",)}  # JSON has no tuples
        found = compare("methods", setting, [Candidate("a", lambda: Round(10, rate))], 1, CPU)
        return save(found | {"disturbed": [], "rate": rate}, str(tmp_path))

    first, other = saved("market1501", 1.0), saved("msmt17", 2.0)
    assert saved("market1501", 3.0) == first and saved("msmt17", 4.0) == other
    assert {path: read_json(path)["rate"] for path in tmp_path.iterdir()} == {first: 3, other: 4}
    assert other.stem.startswith(f"{first.stem}-"), "`methods-*.json` are found"
    first.write_text("damaged")
    assert saved("market1501", 5.0) not in (first, other)


def test_a_file_with_other_methods_or_threads_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def saved(*names: str, threads: int = 1) -> Path:
        timed = [Candidate(name, lambda: Round(10, 1.0)) for name in names]
        found = compare("methods", {}, timed, 1, CPU)
        found["machine"]["threads"] = threads
        return save(found | {"disturbed": []}, str(tmp_path))

    many, few, other = saved("a", "b"), saved("a"), saved("a", threads=2)
    assert len({many, few, other}) == 3
    assert saved("a") == few and saved("a", threads=2) == other and saved("b", "a") == many


def test_hardware_whose_name_begins_like_another_is_kept(tmp_path: Path) -> None:
    def saved(device: str) -> Path:
        found = compare("train", {}, [Candidate("a", lambda: Round(10, 1.0))], 1, CPU)
        found["machine"]["device"] = device
        return save(found | {"disturbed": []}, str(tmp_path))

    nvl, plain = saved("NVIDIA H200 NVL"), saved("NVIDIA H200")
    assert nvl.name == "train-nvidia-h200-nvl.json" and plain.name == "train-nvidia-h200.json"
    assert read_json(nvl)["machine"]["device"] == "NVIDIA H200 NVL"


def test_images_prepared_before_the_clock_starts_count_as_cpu_work() -> None:
    def work(prepared: int) -> Callable[[], Round]:
        def once() -> Round:
            sum(range(2_000_000))
            return Round(100, 1.0, prepared=prepared)

        return once

    candidates = [Candidate("all", work(900)), Candidate("part", work(0))]
    ratios = compare("augment", {}, candidates, 3, CPU)["ratios"]["part"]
    assert ratios["images_per_second"] == 1.0
    assert ratios["images_per_core_second"] == pytest.approx(10, rel=0.6)
