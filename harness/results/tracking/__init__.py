"""Curves in other programs: `log=tensorboard`, `wandb` or `mlflow`.

They receive what `history.json` holds, one point for each epoch. The step of an epoch is its
position in the history, so that stages follow each other. A resumed run continues its curves, and
no point is logged twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError, did_you_mean, say_once
from harness.core.files import write_json
from harness.results.schema import is_number
from harness.results.store import UNREADABLE_JSON, Run

Row = Mapping[str, Any]
#: option → package that it needs, and how to install it
NEEDED = {
    "tensorboard": ("tensorboard", "pip install tensorboard"),
    "wandb": ("wandb", 'pip install "usl-reid-harness[wandb]"'),
    "mlflow": ("mlflow", 'pip install "usl-reid-harness[mlflow]"'),
}
OPTIONS = ("none", *NEEDED)
NOTE = "tracking.json"


class Tracker:
    """Logs the curves of a run; this one, of `log=none`, logs nothing."""

    def log(self, row: Row, step: int) -> None:
        """Log a finished epoch."""

    def close(self, metrics: Mapping[str, float] | None) -> None:
        """End with the record's metrics, or None if the run did not finish."""


def check_log(log: str) -> None:
    """Raise ConfigError for an unknown option or one whose package is not installed."""
    if log not in OPTIONS:
        raise ConfigError(f"log={log} is unknown.", did_you_mean(log, OPTIONS))
    if log != "none" and find_spec(NEEDED[log][0]) is None:
        raise ConfigError(f"log={log} needs a package that is not installed.", NEEDED[log][1])


def make_tracker(
    log: str, folder: Path, name: str, config: Mapping[str, Any], history: Sequence[Row]
) -> Tracker:
    """The tracker of a run, which continues after the epochs of `history`.

    Args:
        config: settings to show with it, from `portable_config`.
    """
    check_log(log)
    if log == "none":
        return Tracker()
    module = import_module(f"harness.results.tracking.{log}")
    return module.Client(folder, name, config, history)


@contextmanager
def opened(
    log: str, folder: Path, name: str, config: Mapping[str, Any], history: Sequence[Row]
) -> Iterator[Tracker]:
    """A tracker that is closed at the end, with the record's metrics if the run finished."""
    tracker = make_tracker(log, folder, name, config, history)
    try:
        yield tracker
    finally:
        run = Run(folder)
        tracker.close(run.record["metrics"] if run.finished else None)


def has_curves(log: str, folder: Path) -> bool:
    """Whether this tracker, whatever others did, was given curves of the run."""
    if log == "tensorboard":
        return any(folder.glob("events.out.tfevents.*"))
    return log in read_note(folder)


def read_note(folder: Path) -> dict[str, Any]:
    """What trackers keep of a run from one process to the next: service → its id of the run.

    A damaged note is named and left out: the run is then a new one for the service.
    """
    path = folder / NOTE
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(note, dict):
            raise ValueError("it does not hold an object")
    except FileNotFoundError:
        return {}
    except UNREADABLE_JSON as error:
        say_once(f"{path} cannot be read ({error}): curves begin as those of a new run.")
        return {}
    return note


def update_note(folder: Path, **entries: Any) -> None:
    """Change entries of the note; those of other services stay."""
    write_json(folder / NOTE, read_note(folder) | entries)


def forget(folder: Path) -> Iterator[Path]:
    """Files of trackers in a run's folder, to delete when the run starts from the beginning."""
    yield from folder.glob("events.out.tfevents.*")
    yield from folder.glob(NOTE)


def scalars(row: Row) -> dict[str, float]:
    """The finite numbers of a row as `stage/key`, without the epoch."""
    stage, numbers = row["stage"], {k: v for k, v in row.items() if is_number(v) and k != "epoch"}
    return {f"{stage}/{key}": float(value) for key, value in numbers.items()}


def final(metrics: Mapping[str, float]) -> dict[str, float]:
    """A record's metrics as `final/key`."""
    return {f"final/{k}": float(v) for k, v in metrics.items() if is_number(v)}
