"""`harness bench gpu`: all that waits for a GPU, one step after the other, in slices of time.

A step that has ended leaves a mark and is not repeated; a run that was stopped goes on from its
last finished epoch. So the same command, given again and again, comes to an end on machines that
are lent for minutes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from harness.core.environment import commit, device_name
from harness.core.errors import ConfigError, HarnessError

MARKS = Path("results/bench/.done")
#: seconds that a stopped step has to write what it is writing
GRACE = 60
PUBLISHED = ("run", "method=mskd", "dataset=market1501", "protocol=published",
             "train.precision=bf16")  # fmt: skip
BENCHES = ("dataset=market1501", "--reference", "--output", "results/bench")


@dataclass(frozen=True)
class Step:
    """A name, and a command of this Python: `-m` and what follows."""

    name: str
    command: tuple[str, ...]


def steps(store: str) -> list[Step]:
    """What there is to do, quick things first."""
    harness = ("-m", "harness")
    compiled = ("train.compile=default", "--steps", "20")
    return [
        Step("tests", ("-m", "pytest", "-m", "gpu and not slow")),
        *(
            Step(f"bench {what}", (*harness, "bench", what, *BENCHES))
            for what in ("augment", "extract", "train")
        ),
        Step("bench train compiled", (*harness, "bench", "train", *BENCHES[:1], *compiled,
                                      "--output", "results/bench/compiled.json")),
        Step("MSKD as published", (*harness, *PUBLISHED, f"store={store}")),
        Step("tests of compilation", ("-m", "pytest", "-m", "gpu and slow")),
        Step("table", (*harness, "table", "--store", store, "--dataset", "market1501")),
    ]  # fmt: skip


def run(minutes: float | None, store: str) -> None:
    """Do the steps that are left, until all are done or the time is over.

    Raises:
        ConfigError: no GPU. HarnessError: a step failed.
    """
    if not torch.cuda.is_available():
        raise ConfigError(
            "PyTorch sees no GPU here.", "Give this command on a machine that has one."
        )
    if minutes is not None and minutes <= 0:
        raise ConfigError(f"--minutes {minutes} must be above 0.")
    version = f"{commit()} on {device_name(torch.device('cuda'))}"
    left = go(steps(store), MARKS, version, minutes, print)
    if left:
        print(f"Time is over. Left: {', '.join(left)}. The same command goes on.")


def go(
    todo: Sequence[Step], marks: Path, version: str, minutes: float | None,
    say: Callable[[str], None],
) -> list[str]:  # fmt: skip
    """Do steps in order; those whose mark is of this version were done before.

    Returns:
        Names of the steps that are left when time is over.

    Raises:
        HarnessError: a step failed; those after it were not begun.
    """
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for position, step in enumerate(todo):
        mark = marks / step.name.replace(" ", "-")
        if mark.is_file() and mark.read_text(encoding="utf-8") == version:
            say(f"{step.name}: done before")
            continue
        seconds = None if end is None else end - time.monotonic()
        if seconds is not None and seconds <= 0:
            return [later.name for later in todo[position:]]
        say(f"{step.name}: {' '.join(step.command[1:])}")
        status = _run([sys.executable, *step.command], seconds)
        if status is None:
            return [later.name for later in todo[position:]]
        if status:
            raise HarnessError(
                f"The step '{step.name}' failed with status {status}.",
                "What it printed says why; the same command begins again with it.",
            )
        marks.mkdir(parents=True, exist_ok=True)
        mark.write_text(version, encoding="utf-8")
    return []


def _run(command: list[str], seconds: float | None) -> int | None:
    """The command's status; None if it was stopped because time was over."""
    process = subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # as a person would: the last finished epoch is kept
        try:
            process.wait(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None
    except BaseException:
        process.terminate()
        process.wait()
        raise
