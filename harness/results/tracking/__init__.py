"""Curves for other programs to draw: `log=tensorboard`, `wandb` or `mlflow`.

What is logged is what `history.json` holds, a point an epoch; the position of an epoch in the
history is its step, so that stages follow each other. A run that is resumed goes on where its
history does, and no point is there twice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from harness.core.errors import ConfigError, did_you_mean
from harness.results.store import Run

Row = Mapping[str, Any]
#: option → module that it needs, and how to have it
NEEDED = {
    "tensorboard": ("tensorboard", "pip install tensorboard"),
    "wandb": ("wandb", 'pip install "usl-reid-harness[wandb]"'),
    "mlflow": ("mlflow", 'pip install "usl-reid-harness[mlflow]"'),
}
OPTIONS = ("none", *NEEDED)


class Tracker(Protocol):
    """Where curves go."""

    def log(self, row: Row, step: int) -> None:
        """A finished epoch."""

    def close(self, metrics: Mapping[str, float] | None) -> None:
        """The end: the record's metrics, or None where the run did not come to one."""


class NoTracker:
    """`log=none`."""

    def log(self, row: Row, step: int) -> None:
        """Nothing."""

    def close(self, metrics: Mapping[str, float] | None) -> None:
        """Nothing."""


def check_log(log: str) -> None:
    """Refuse what cannot be had, before any work.

    Raises:
        ConfigError: no such option, or its package is missing.
    """
    if log not in OPTIONS:
        raise ConfigError(f"log={log} is unknown.", did_you_mean(log, OPTIONS))
    if log != "none" and find_spec(NEEDED[log][0]) is None:
        raise ConfigError(f"log={log} needs a package that is not installed.", NEEDED[log][1])


def make_tracker(
    log: str, folder: Path, name: str, config: Mapping[str, Any], history: Sequence[Row]
) -> Tracker:
    """What `log` says, going on after the epochs of `history`.

    Args:
        folder: of the run. name: the cell's. config: what is shown with it: `portable_config`'s.
    """
    check_log(log)
    if log == "none":
        return NoTracker()
    module = import_module(f"harness.results.tracking.{log}")
    return module.make(folder, name, config, history)


@contextmanager
def opened(
    log: str, folder: Path, name: str, config: Mapping[str, Any], history: Sequence[Row]
) -> Iterator[Tracker]:
    """A tracker for a cell's epochs, closed with the record's metrics if it comes to one."""
    tracker = make_tracker(log, folder, name, config, history)
    try:
        yield tracker
    finally:
        run = Run(folder)
        tracker.close(run.record["metrics"] if run.finished else None)


def forget(folder: Path) -> Iterator[Path]:
    """What trackers left in a run's folder, for a run that starts afresh."""
    yield from folder.glob("events.out.tfevents.*")
    yield from folder.glob("tracking.json")


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a row as `stage/key`: finite ones, but for the epoch itself."""
    return {
        f"{row['stage']}/{key}": float(value)
        for key, value in row.items()
        if key != "epoch" and _is_number(value)
    }


def final(metrics: Mapping[str, float]) -> dict[str, float]:
    """A record's metrics, as `final/key`."""
    return {f"final/{k}": float(v) for k, v in metrics.items() if _is_number(v)}


def plain(name: str) -> str:
    """A name of letters that all of these services take."""
    return re.sub(r"[^\w.-]+", "-", name)[:100]


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value)
