"""`harness bench gpu`: everything that needs a GPU, one step after the other.

A finished step leaves a mark and is not repeated; a stopped run resumes from its last finished
epoch. Repeating the command therefore completes the work on machines that are lent for minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from harness.core.environment import commit, device_name
from harness.core.errors import ConfigError, HarnessError

MARKS = Path("results/bench/.done")


def steps(store: str) -> dict[str, list[str]]:
    """Name → arguments of a Python process, in the order of their worth."""
    harness, bench, market = ["-m", "harness"], ["-m", "harness", "bench"], "dataset=market1501"
    # where time is short, a disturbed timing is better than none; its file shows the load
    any_load = ["--max-load", "1"]
    output = [*any_load, "--max-spread", "9", "--output", "results/bench"]
    timings = {
        f"bench {what}": [*bench, what, market, "--baseline", *output]
        for what in ("train", "extract", "augment")
    }
    return {
        "tests": ["-m", "pytest", "-m", "gpu and not slow"],
        "bench methods": [*bench, "methods", "+experiment=market1501_gpu", "--seconds", "0.2",
                          "--repeats", "5", *any_load, "--max-error", "9", "--output",
                          "results/bench"],
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
        "table": [*harness, "table", "--store", store, "--dataset", "market1501"],
    }  # fmt: skip


def run(minutes: float | None, store: str) -> None:
    """Do the steps that are left, until all are done or the time is over.

    Raises:
        ConfigError: there is no GPU. HarnessError: a step failed.
    """
    if not torch.cuda.is_available():
        raise ConfigError("PyTorch finds no GPU here.", "Run this command on a GPU machine.")
    version = f"{commit()} on {device_name(torch.device('cuda'))}"
    left = do(steps(store), MARKS, version, minutes, print)
    if left:
        print(f"Time is over. Left: {', '.join(left)}. Repeat the command to continue.")


def do(
    todo: Mapping[str, Sequence[str]], marks: Path, version: str, minutes: float | None,
    say: Callable[[str], None],
) -> list[str]:  # fmt: skip
    """Do steps in order, except those that have a mark of this version.

    Returns:
        Names of the steps that are left when the time is over.

    Raises:
        HarnessError: a step failed; later ones were not started.
    """
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for position, (name, arguments) in enumerate(todo.items()):
        mark = marks / name.replace(" ", "-")
        if mark.is_file() and mark.read_text(encoding="utf-8") == version:
            say(f"{name}: already done")
            continue
        say(f"{name}: {' '.join(arguments[1:])}")
        try:
            status = subprocess.run(
                [sys.executable, *arguments],
                timeout=None if end is None else max(0.0, end - time.monotonic()),
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            ).returncode
        except subprocess.TimeoutExpired:
            return list(todo)[position:]
        if status:
            raise HarnessError(f"The step '{name}' failed with status {status}.",
                               "The same command starts again with this step.")  # fmt: skip
        marks.mkdir(parents=True, exist_ok=True)
        mark.write_text(version, encoding="utf-8")
    return []
