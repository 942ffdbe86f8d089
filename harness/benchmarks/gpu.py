"""`harness bench gpu`: everything that needs a GPU, one step after the other.

A finished step leaves a mark and is not repeated for this commit and GPU; a stopped run resumes
from its last finished epoch. A step that failed, or that took more than the whole time, comes after
the others the next time; of several, the one that was tried last is the last. Repeating the command
therefore completes the work on a GPU that is available for minutes at a time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from harness.core.environment import commit, device_name
from harness.core.errors import ConfigError, HarnessError

MARKS = Path("results/bench/.done")
#: seconds that a stopped step has to delete its temporary files
GRACE = 5.0
#: the methods that are timed first; all of them would leave no time for the other steps
FIRST = "method=cluster_contrast,mskd,direct_transfer,o2cap,cap,mmt"


def steps(store: str) -> dict[str, list[str]]:
    """Name → arguments of a Python process, in the order of their worth."""
    harness, bench, market = ["-m", "harness"], ["-m", "harness", "bench"], "dataset=market1501"
    # disturbed timings are kept, because time is short; their files record the load
    output = ["--max-load", "1", "--max-error", "9", "--output", "results/bench"]
    timings = {
        f"bench {what}": [*bench, what, market, "--baseline", *output]
        for what in ("train", "extract", "augment")
    }
    methods = [*bench, "methods", "+experiment=market1501_gpu", "--repeats", "5", *output]
    return {
        "tests": ["-m", "pytest", "-m", "gpu and not slow"],
        "bench methods": [*methods, FIRST],
        **timings,
        "bench labels": [*bench, "labels", *output],
        "bench eval": [*bench, "eval", *output],
        "bench train compiled": [*bench, "train", market, "train.compile=default", "--steps", "20",
                                 *output[:-1], "results/bench/compiled"],
        "MSKD as published at 128×64": [*harness, "run", "method=mskd",
                                        "+experiment=market1501_gpu", f"store={store}"],
        "MSKD as published": [*harness, "run", "method=mskd", market, "protocol=published",
                              "train.precision=bf16", f"store={store}"],
        "tests of compilation": ["-m", "pytest", "-m", "gpu and slow"],
        "bench all methods": methods,
        "table": [*harness, "table", "--store", store, "--dataset", "market1501"],
    }  # fmt: skip


def run(minutes: float | None, store: str) -> None:
    """Do the steps that are left, until all are done or the time is over.

    A scheduler's SIGTERM stops the step that runs, like Ctrl-C.

    Raises:
        ConfigError: there is no GPU. HarnessError: steps failed.
    """
    if not torch.cuda.is_available():
        raise ConfigError("PyTorch finds no GPU here.", "Run this command on a GPU machine.")
    version = f"{commit()} on {device_name(torch.device('cuda'))}"
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        left = do(steps(store), MARKS, version, minutes, print)
    finally:
        signal.signal(signal.SIGTERM, before)
    if left:
        print(f"The time is over. Steps left: {', '.join(left)}. Repeat the command to continue.")


def do(
    todo: Mapping[str, Sequence[str]], marks: Path, version: str, minutes: float | None,
    say: Callable[[str], None],
) -> list[str]:  # fmt: skip
    """Do steps, except those that are done in this version. The table is made anew in each call.

    Returns:
        Names of the steps that are left when the time is over.

    Raises:
        HarnessError: steps failed; the others were done, or the time was over.
    """
    end = None if minutes is None else time.monotonic() + 60 * minutes
    states = {name: _state(marks, name, version) for name in todo}
    order = sorted(todo, key=lambda name: (name == "table", _tried(marks, name, states[name])))
    failed: dict[str, int] = {}
    left: list[str] = []
    begun = 0
    for position, name in enumerate(order):
        if states[name] == "done":
            say(f"{name}: already done")
            continue
        seconds = None if end is None else end - time.monotonic()
        if begun and seconds is not None and seconds <= 0:
            left = [each for each in order[position:] if states[each] != "done"]
            break
        say(f"{name}: {' '.join(todo[name][1:])}")
        begun += 1
        status = _run(todo[name], seconds)
        if status == 0 and name != "table":
            _mark(marks, name, f"done {version}")
        elif status:
            failed[name] = status
            _mark(marks, name, f"later {version}")
        elif status is None:
            resumes = "run" in todo[name]
            if begun == 1 and not resumes:  # it had all the time
                _mark(marks, name, f"later {version}")
            left = [each for each in order[position:] if states[each] != "done"]
            break
    if failed:
        shown = ", ".join(f"'{name}' (status {status})" for name, status in failed.items())
        rest = f" The time was over before: {', '.join(left)}." if left else ""
        raise HarnessError(f"Steps failed: {shown}.{rest}",
                           "The same command repeats them, after steps that are left.")  # fmt: skip
    return left


def _state(marks: Path, name: str, version: str) -> str:
    """'done', 'later' (it failed, or took too long), or '' if it has not been tried."""
    path = _path(marks, name)
    state, _, of = (path.read_text(encoding="utf-8") if path.is_file() else "").partition(" ")
    return state if of == version else ""


def _tried(marks: Path, name: str, state: str) -> float:
    """When a step was tried that is to come later; 0 for the others."""
    return _path(marks, name).stat().st_mtime if state == "later" else 0.0


def _path(marks: Path, name: str) -> Path:
    return marks / name.replace(" ", "-")


def _mark(marks: Path, name: str, text: str) -> None:
    marks.mkdir(parents=True, exist_ok=True)
    _path(marks, name).write_text(text, encoding="utf-8")


def _run(arguments: Sequence[str], seconds: float | None) -> int | None:
    """The exit status of a Python process; None if it was stopped after `seconds`.

    A process that is stopped gets SIGINT, and after `GRACE` is killed with all processes that it
    started.
    """
    # a process that was started in the background ignores SIGINT, and so would the step
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONUNBUFFERED": "1"}, start_new_session=True,
        )  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.returncode is None:  # also after Ctrl-C, which does not reach another session
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if not hasattr(os, "killpg"):
        process.kill()
        process.wait()
        return
    os.killpg(process.pid, signal.SIGINT)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    finally:  # also after a second Ctrl-C
        with contextlib.suppress(ProcessLookupError):  # none of its group is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
