"""How far runs have come, why they failed, and that only what is at rest is removed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import filelock
import pytest

from harness.core.distributed import job
from harness.core.errors import ConfigError, HarnessError, TrainingError
from harness.results.delete import remove
from harness.results.run_status import failure, noting_failure, state
from harness.results.store import Run, Store
from tests.conftest import Command
from tests.results.records import record, write

HISTORY = [{"stage": "teacher", "epoch": 49}, {"stage": "student", "epoch": 3}]


def begun(store: Path, name: str) -> Path:
    folder = write(store, name, None)
    (folder / "history.json").write_text(json.dumps(HISTORY))
    return folder


def failed(store: Path, name: str) -> Path:
    folder = begun(store, name)
    with pytest.raises(TrainingError), noting_failure(Run(folder), lambda: HISTORY):
        raise TrainingError("no clusters", "Raise labeler.eps.")
    return folder


def test_a_lost_process_is_noted_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in those of the library that carried the messages."""
    monkeypatch.setattr(job, "is_distributed", lambda: True)
    run = Run(begun(tmp_path, "run"))
    with pytest.raises(RuntimeError), noting_failure(run, list):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
    why = failure(run)
    assert why is not None and "lost the others" in why["error"] and "gloo" not in str(why)
    assert "Repeat the command" in why["hint"] and why["traceback"] is None


def test_every_state(tmp_path: Path, command: Command) -> None:
    write(tmp_path, "a-finished", record(student=70.0))
    write(tmp_path, "b-begun", None)
    begun(tmp_path, "c-unfinished")
    failed(tmp_path, "d-failed")
    write(tmp_path, "e-damaged", "{")
    with Run(begun(tmp_path, "f-running")).lock():
        out = command("list", "runs", "--store", str(tmp_path)).out
    assert [line.split(None, 1)[1] for line in out.splitlines()] == [
        "mAP 70.0  Rank-1 90.0",
        "unfinished",
        "unfinished after student 3",
        "failed: no clusters (after student 3)",
        "damaged: record.json cannot be read (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))",
        "running after student 3",
    ]
    assert str(state(Run(tmp_path / "f-running"))) == "unfinished after student 3"


def test_to_look_at_a_run_does_not_get_in_its_way(tmp_path: Path) -> None:
    run = Run(begun(tmp_path, "run"))
    run.lock().release()
    assert not run.running
    with run.lock():
        assert run.running and run.running
    assert not run.running


def test_why_a_run_failed(tmp_path: Path) -> None:
    run = Run(failed(tmp_path, "run"))
    why = failure(run)
    assert why is not None
    assert (why["error"], why["hint"], why["kind"]) == (
        "no clusters", "Raise labeler.eps.", "TrainingError",
    )  # fmt: skip
    assert (why["stage"], why["epoch"], why["traceback"]) == ("student", 3, None)
    with pytest.raises(ZeroDivisionError), noting_failure(run, list):
        _ = 1 / 0
    why = failure(run)
    assert why is not None and "in test_why_a_run_failed" in why["traceback"]
    with pytest.raises(KeyboardInterrupt), noting_failure(run, list):
        raise KeyboardInterrupt
    assert failure(run) is None, "who is stopped did not fail"
    (run.folder / "failed.json").write_text("[")
    assert "cannot be read" in str(state(run))


def test_rm(tmp_path: Path, command: Command) -> None:
    for seed in range(3):
        for method in ("mskd", "cap"):
            write(tmp_path, f"{method}-s{seed}", record(method, seed))
    store = ["--store", str(tmp_path)]

    def names() -> list[str]:
        return [run.name for run in Store(tmp_path).runs()]

    answer = command("rm", "mskd-*", *store)
    assert answer.status == 2 and "Add --yes" in answer.err and len(names()) == 6
    assert "mskd-s1   mAP 70.0" in answer.out
    answer = command("rm", "mskd-s", *store, "--yes")
    assert answer.status == 2 and "no run 'mskd-s'" in answer.err, "no beginnings of names"
    with Run(tmp_path / "mskd-s1").lock():
        answer = command("rm", "mskd-*", "cap-s2", "--yes", *store)
    assert answer.status == 1 and "mskd-s1: running, and not removed" in answer.err
    assert names() == ["cap-s0", "cap-s1", "mskd-s1"]
    assert command("rm", "*", "--yes", *store).status == 0
    assert not names() and not list(tmp_path.glob(".removed*"))


def test_rm_of_a_store_that_cannot_be_written(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not called running."""
    write(tmp_path, "run", record())
    refused = HarnessError("run cannot be written: Read-only file system.", "Choose another.")
    monkeypatch.setattr(Run, "lock", lambda self: (_ for _ in ()).throw(refused))
    answer = command("rm", "run", "--yes", "--store", str(tmp_path))
    assert answer.status == 1 and "run was not removed: run cannot be written" in answer.err
    assert f"right to write in {tmp_path}" in answer.err and "running" not in answer.err


def test_rm_asks(tmp_path: Path) -> None:
    write(tmp_path, "teacher-run", record())
    write(tmp_path, "other", record(seed=1))
    asked: list[str] = []

    def answer(word: str) -> list[str]:
        def ask(question: str) -> str:
            asked.append(question)
            return word

        return remove(["teacher-run"], str(tmp_path), ask=ask)

    assert answer("n") == [] and answer("") == []
    assert asked[0] == "Remove these runs (1 finished) for good? [y/N] "
    assert answer("Y") == ["teacher-run"]
    with pytest.raises(ConfigError, match="no run"):
        answer("y")


def test_a_reader_without_the_right_to_write_sees_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(begun(tmp_path, "shared"))
    held, opened = run.lock(), os.open
    (run.folder / ".lock").chmod(0o444)

    def read_only(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR):  # root may write nevertheless
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", read_only)
    assert run.running
    held.release()
    assert not run.running


def test_a_lock_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("no flock here")

    run = Run(begun(tmp_path, "run"))
    run.lock().release()
    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(HarnessError, match="needs a file system with locks"):
        run.lock()
    assert run.running is False
