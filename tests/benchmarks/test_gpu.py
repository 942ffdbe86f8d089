"""`harness bench gpu`: finished steps are not repeated, and every step is a valid command."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.benchmarks import evaluation, gpu, labels, methods, pipeline
from harness.core.errors import HarnessError
from harness.experiment.compose import compose
from harness.experiment.recipe import make_recipe
from tests.conftest import Command


def test_steps_continue_where_they_stopped(tmp_path: Path) -> None:
    lines: list[str] = []
    log = tmp_path / "log"
    write = f"open({str(log)!r}, 'a').write({{!r}})"
    todo = {
        "one": ["-c", write.format("1")],
        "two": ["-c", "import time; time.sleep(60)"],
        "three": ["-c", write.format("3")],
    }
    marks = tmp_path / "marks"
    assert gpu.do(todo, marks, "v1", 2 / 60, lines.append) == ["two", "three"]
    todo["two"] = ["-c", write.format("2")]
    assert gpu.do(todo, marks, "v1", None, lines.append) == []
    assert log.read_text() == "123" and "one: already done" in lines
    assert gpu.do(todo, marks, "v2", None, lines.append) == []
    assert log.read_text() == "123123", "another commit or another GPU starts afresh"


def test_others_follow_a_failing_step(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write = f"open({str(log)!r}, 'a').write({{!r}})"
    todo = {
        "bad": ["-c", f"{write.format('b')}; raise SystemExit(3)"],
        "good": ["-c", write.format("g")],
        "table": ["-c", write.format("t")],
    }
    with pytest.raises(HarnessError, match=r"'bad' \(status 3\)"):
        gpu.do(todo, tmp_path / "marks", "v", None, print)
    assert log.read_text() == "bgt"
    with pytest.raises(HarnessError, match="'bad'"):
        gpu.do(todo, tmp_path / "marks", "v", None, print)
    assert log.read_text() == "bgtbt", "the table is made in each call, at its end"


def test_a_step_that_takes_more_than_the_whole_time_comes_last(tmp_path: Path) -> None:
    child = tmp_path / "child"
    late = f"import time; time.sleep(4); open({str(child)!r}, 'w')"
    long = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {late!r}])"
    done = tmp_path / "done"
    todo = {"long": ["-c", long], "short": ["-c", f"open({str(done)!r}, 'w')"], "table": ["-c", ""]}
    marks = tmp_path / "marks"
    assert gpu.do(todo, marks, "v", 2 / 60, print) == ["long", "short", "table"]
    assert not done.exists()
    gpu.do(todo, marks, "v", 3 / 60, print)
    assert done.exists(), "after it the others have their turn"
    time.sleep(3)
    assert not child.exists(), "what a step started ends with it"


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN], ids=["usual", "background"])
def interrupts(request: pytest.FixtureRequest) -> Iterator[None]:
    """How this process takes SIGINT: in the background it is ignored."""
    before = signal.signal(signal.SIGINT, request.param)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_a_stopped_step_deletes_its_temporary_files(tmp_path: Path) -> None:
    step = "import tempfile, time\nwith tempfile.TemporaryDirectory(dir={!r}): time.sleep(60)"
    left = gpu.do({"long": ["-c", step.format(str(tmp_path))]}, tmp_path / "m", "v", 2 / 60, print)
    assert left == ["long"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_step_that_ignores_signals_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "GRACE", 0.5)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
    began = time.monotonic()
    assert gpu.do({"deaf": ["-c", deaf]}, tmp_path, "v", 2 / 60, print) == ["deaf"]
    assert time.monotonic() - began < 30


def test_nothing_begins_when_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 61.0])
    monkeypatch.setattr("harness.benchmarks.gpu.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(gpu, "_run", lambda arguments, seconds: 0)
    lines: list[str] = []
    todo = {"one": ["-c", "1"], "two": ["-c", "2"], "three": ["-c", "3"]}
    assert gpu.do(todo, tmp_path, "v", 1.0, lines.append) == ["two", "three"]
    assert lines == ["one: 1"]


def test_steps_that_come_later_take_turns(tmp_path: Path) -> None:
    flaky = tmp_path / "flaky"
    fails_once = f"from pathlib import Path; p = Path({str(flaky)!r}); n = p.exists(); p.touch(); "
    todo = {
        "long": ["-c", "import time; time.sleep(60)"],
        "flaky": ["-c", f"{fails_once} raise SystemExit(not n)"],
    }
    marks = tmp_path / "marks"
    gpu.do(todo, marks, "v", 1 / 60, print)  # it had all the time
    with pytest.raises(HarnessError, match="'flaky'"):
        gpu.do({"flaky": todo["flaky"]}, marks, "v", None, print)
    gpu.do(todo, marks, "v", 1 / 60, print)  # the one that was tried first comes first
    assert gpu.do(todo, marks, "v", 3 / 60, print) == ["long"], "then the other one"


def test_a_signal_stops_the_step_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    late = tmp_path / "late"
    step = ["-c", f"import time; time.sleep(3); open({str(late)!r}, 'w')"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "device_name", lambda device: "a GPU")
    monkeypatch.setattr(gpu, "steps", lambda store: {"one": step})
    monkeypatch.setattr(gpu, "MARKS", tmp_path / "marks")
    threading.Timer(1, os.kill, [os.getpid(), signal.SIGTERM]).start()
    with pytest.raises(KeyboardInterrupt):
        gpu.run(None, "runs")
    time.sleep(3)
    assert not late.exists() and not (tmp_path / "marks").exists()


def test_a_run_that_resumes_stays_at_its_place(tmp_path: Path) -> None:
    run = ["-c", "import time; time.sleep(60)", "run"]
    for _ in range(2):
        assert gpu.do({"run": run, "next": ["-c", ""]}, tmp_path, "v", 1 / 60, print) == [
            "run", "next",
        ]  # fmt: skip


def test_every_step_is_a_valid_command(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []

    def measure(*what: str, **options: Any) -> dict[str, Any]:
        timed.append(*what)
        raise HarnessError("not here")

    monkeypatch.setattr(pipeline, "measure", measure)
    for part, name in ((methods, "methods"), (labels, "labels"), (evaluation, "eval")):
        monkeypatch.setattr(part, "measure", functools.partial(measure, name))
    steps = gpu.steps("results/runs")
    for arguments in steps.values():
        if arguments[:2] != ["-m", "harness"]:
            assert arguments[:3] == ["-m", "pytest", "-m"] and "gpu" in arguments[3]
        elif arguments[2] == "run":
            make_recipe(compose([word for word in arguments[3:] if "=" in word]))
        elif arguments[2] == "bench":
            assert "not here" in command(*arguments[2:]).err
    assert timed == ["methods", "train", "extract", "augment", "labels", "eval", "train", "methods"]
    assert "MSKD as published" in steps


@pytest.mark.skipif(torch.cuda.is_available(), reason="would begin")
def test_without_a_gpu_it_is_refused(command: Command) -> None:
    answer = command("bench", "gpu")
    assert answer.status == 2 and "no GPU" in answer.err
