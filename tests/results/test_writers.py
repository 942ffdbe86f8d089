"""Many processes write to one store at once, as they do on a shared file system."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

from harness.core.errors import HarnessError
from harness.core.files import write_json
from harness.results.delete import remove
from harness.results.run_status import state
from harness.results.store import Run, Store, load
from harness.results.store_check import record_problems
from tests.results.records import record, write

CELLS, WRITERS = 12, 4
SPAWN = multiprocessing.get_context("spawn")  # as separate commands are


def work(store: str, number: int, ready: object, go: object) -> None:
    """What a command does for each of the cells: takes it, or finds it taken or finished."""
    ready.release()  # type: ignore[attr-defined]
    go.wait()  # type: ignore[attr-defined]
    for cell in range(CELLS):
        run = Run(Path(store) / f"cell{cell}")
        try:
            lock = run.lock()
        except HarnessError:
            continue
        with lock:
            if Run(run.folder).finished:
                continue
            with (run.folder / "written-by").open("a") as file:
                file.write(f"{number}\n")
            write_json(run.folder / "config.json", {"seed": cell})
            for epoch in range(3):
                history = [{"stage": "train", "epoch": e} for e in range(epoch + 1)]
                write_json(run.folder / "history.json", history)
            write_json(run.folder / "record.json", record(seed=cell, train=50.0 + cell))


def overwrite(path: str, number: int, go: object) -> None:
    """Write one file again and again, as nobody should."""
    go.wait()  # type: ignore[attr-defined]
    for _ in range(60):
        write_json(Path(path), [number] * 2000)


def test_every_cell_is_written_once_and_readers_see_whole_runs(tmp_path: Path) -> None:
    ready, go = SPAWN.Semaphore(0), SPAWN.Event()
    writers = [
        SPAWN.Process(target=work, args=(str(tmp_path), number, ready, go))
        for number in range(WRITERS)
    ]
    for writer in writers:
        writer.start()
    for _ in writers:
        assert ready.acquire(timeout=120)
    go.set()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        runs = list(Store(tmp_path).runs())
        assert not list(record_problems(runs)), "a reader saw half a record"
        assert {state(run).kind for run in runs} <= {"finished", "running", "unfinished"}
        table = load(tmp_path)
        seen = max(seen, len(table))
        time.sleep(0.01)
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    table = load(tmp_path).set_index("seed")
    assert sorted(table.index) == list(range(CELLS))
    assert all(table.loc[cell, "mAP"] == 50.0 + cell for cell in range(CELLS))
    for folder in tmp_path.glob("cell*"):
        assert len((folder / "written-by").read_text().split()) == 1
    assert not list(tmp_path.rglob("*.tmp"))


def test_one_file_from_many_processes_is_always_whole(tmp_path: Path) -> None:
    path, go = tmp_path / "file.json", SPAWN.Event()
    write_json(path, [9] * 2000)
    writers = [SPAWN.Process(target=overwrite, args=(str(path), n, go)) for n in range(2)]
    for writer in writers:
        writer.start()
    go.set()
    while any(writer.is_alive() for writer in writers):
        found = json.loads(path.read_text())
        assert len(found) == 2000 and len(set(found)) == 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_tables_go_on_while_runs_are_removed(tmp_path: Path) -> None:
    for seed in range(30):
        write(tmp_path, f"run{seed:02}", record(seed=seed))
    found = Store(tmp_path).runs()
    first = next(found)
    remove(["run0*", "run1*"], str(tmp_path), yes=True)
    rest = [run.name for run in found if run.finished]
    assert first.name == "run00" and rest[-1] == "run29" and len(rest) >= 10
    assert len(load(tmp_path)) == 2 * 10
