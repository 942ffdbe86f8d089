"""The index of a large store: what it says is what the files say, always; and it is quick."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.results import index
from harness.results import marks_cache as lead_cache
from harness.results.comparisons import comparisons
from harness.results.significance_marks import marks
from harness.results.store import Store, load
from harness.results.tables import Options, show
from tests.conftest import Command
from tests.results.records import CARD, card, record, write


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores of three runs count as large ones."""
    monkeypatch.setattr(index, "LEAST", 3)
    monkeypatch.setattr(lead_cache, "LEAST", 2)


def aged(store: Path, seconds: float = 60.0) -> None:
    """As if all files had been written a while ago."""
    for path in store.rglob("*"):
        if path.is_file():
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))


def scores(store: Path) -> dict[str, float]:
    return {run.name: run.record["metrics"]["mAP"] for run in Store(store).runs() if run.finished}


def filled(store: Path, count: int = 6) -> None:
    for seed in range(count):
        write(store, f"run{seed}", record(seed=seed, train=50.0 + seed))


@pytest.mark.usefixtures("small")
def test_records_come_from_the_index_while_files_stay_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)
    aged(tmp_path)
    first = scores(tmp_path)
    assert (tmp_path / index.NAME).is_file()
    with monkeypatch.context() as patch:
        patch.setattr(index, "_entry", lambda path: pytest.fail(f"{path} was read"))
        assert scores(tmp_path) == first
        assert len(load(tmp_path)) == 6


@pytest.mark.usefixtures("small")
def test_the_index_is_never_stale(tmp_path: Path) -> None:
    filled(tmp_path)
    aged(tmp_path)
    scores(tmp_path)
    edited = tmp_path / "run1" / "record.json"
    edited.write_text(edited.read_text().replace("51.0", "99.0"))  # of the same size
    (tmp_path / "run2" / "record.json").unlink()
    (tmp_path / "run3" / "record.json").write_text("{")
    moved = tmp_path / "new.json"
    moved.write_text(json.dumps(record(seed=4, train=56.0)))
    os.utime(moved, ns=((stat := (tmp_path / "run4" / "record.json").stat()).st_mtime_ns,) * 2)
    assert moved.stat().st_size == stat.st_size
    moved.replace(tmp_path / "run4" / "record.json")  # of the same size and time
    write(tmp_path, "run9", record(seed=9, train=59.0))
    assert scores(tmp_path) == {
        "run0": 50.0, "run1": 99.0, "run4": 56.0, "run5": 55.0, "run9": 59.0,
    }  # fmt: skip
    states = {run.name: run for run in Store(tmp_path).runs()}
    assert states["run3"].problem and not states["run2"].finished


@pytest.mark.usefixtures("small")
def test_what_was_just_written_is_not_trusted(tmp_path: Path) -> None:
    filled(tmp_path)
    scores(tmp_path)
    assert json.loads((tmp_path / index.NAME).read_text()) == {}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("text", ["", "{", "[1]", '{"run1": 3}', '{"run1": [[1, 2, 3], 4]}'])
def test_a_damaged_index_costs_time_only(tmp_path: Path, text: str) -> None:
    filled(tmp_path)
    aged(tmp_path)
    (tmp_path / index.NAME).write_text(text)
    assert len(scores(tmp_path)) == 6


def test_small_stores_have_none(tmp_path: Path) -> None:
    filled(tmp_path)
    aged(tmp_path)
    scores(tmp_path)
    assert not (tmp_path / index.NAME).exists()


def with_queries(store: Path, name: str, lead: float) -> Path:
    ap = np.clip(np.random.default_rng(0).random(100) * 0.5 + lead, 0, 1)
    folder = write(store, name, record(name, train=float(100 * ap.mean())))
    arrays: dict[str, Any] = {"train_ap": ap, "train_first_match_rank": np.ones(100, int)}
    np.savez(folder / "per_query.npz", **arrays)
    return folder


@pytest.mark.usefixtures("small")
def test_leads_are_kept_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, lead in (("one", 0.3), ("two", 0.1), ("three", 0.0)):
        with_queries(tmp_path, name, lead)
    aged(tmp_path)
    (only,) = comparisons(tmp_path)
    first = marks(only)
    assert first["mAP"].best == {"one"}
    assert (tmp_path / lead_cache.NAME).is_file()
    with monkeypatch.context() as patch:
        patch.setattr(np, "load", lambda *_: pytest.fail("results by query were read"))
        (only,) = comparisons(tmp_path)
        assert marks(only) == first
    (tmp_path / "two" / "per_query.npz").unlink()
    (only,) = comparisons(tmp_path)
    assert marks(only) == {}


def test_a_damaged_file_of_queries_is_not_fatal(tmp_path: Path, command: Command) -> None:
    for name, lead in (("one", 0.3), ("two", 0.1)):
        with_queries(tmp_path, name, lead)
    path = tmp_path / "one" / "per_query.npz"
    path.write_bytes(path.read_bytes()[:-200])
    (only,) = comparisons(tmp_path)
    assert marks(only) == {}
    answer = command("table", "--store", str(tmp_path))
    assert answer.status == 0
    assert "Nothing is bold: the runs of some rows have no results by query" in " ".join(
        answer.out.split()
    )


@pytest.mark.slow
def test_ten_thousand_records_in_five_seconds(tmp_path: Path) -> None:
    """20 methods × 25 data sets × 20 seeds, with results by query. CPU seconds of this process, as
    other work on a machine is not ours; the first table reads every file, later ones the index.
    """
    store = tmp_path / "runs"
    rng = np.random.default_rng(0)
    protocol = card(**{key: value for key, value in CARD.items() if key != "hash"})
    people = np.arange(243) // 5
    for method in range(20):
        for data in range(25):
            for seed in range(20):
                ap = rng.random(243).astype(np.float32)
                content = record(f"m{method}", seed, f"d{data}", f"{method:08x}", protocol,
                                 train=float(100 * ap.mean()))  # fmt: skip
                folder = write(store, f"m{method}-d{data}-s{seed}", content)
                arrays: dict[str, Any] = {
                    "train_ap": ap, "train_first_match_rank": np.ones(243, np.int32),
                    "query_identity": people,
                }  # fmt: skip
                np.savez_compressed(folder / "per_query.npz", **arrays)
    aged(store)
    seconds = []
    for _ in range(2):
        started = time.process_time()
        show(Options(str(store), "markdown", output=str(tmp_path / "table.md")))
        seconds.append(time.process_time() - started)
    print(f"10,000 records: first {seconds[0]:.1f} s, then {seconds[1]:.1f} s")
    assert (tmp_path / "table.md").read_text().count("| m7 |") == 25
    assert seconds[1] < 5
