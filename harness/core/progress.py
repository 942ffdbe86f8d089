"""Progress display: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import gmtime, strftime
from traceback import format_exception
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from harness.core.errors import HarnessError, listeners
from harness.core.metrics import METRICS

QUIET_SECONDS = 30.0  # interval between lines of a long phase in a plain log
QUIET = 0.1  # share of the CPU that other work may take before it is shown beside the speed
_EPOCH = {
    "loss": "loss {loss:.3f}", "clusters": "{clusters} clusters, {outliers} outliers",
    "ari": "ARI {ari:.2f}", "images_per_second": "{images_per_second:.0f} images/s",
}  # fmt: skip


def epoch_line(row: Mapping[str, Any]) -> str:
    """One line of text for a finished epoch's history row."""
    parts = [f"{row['stage']} {row['epoch']:>3}"]
    parts += [text.format_map(row) for key, text in _EPOCH.items() if key in row]
    others = 1.0 - row.get("cpu_share", 1.0)
    if "images_per_second" in row and others > QUIET:
        parts[-1] += f" (other work took {others:.0%} of the CPU)"
    shown = [METRICS[key] for key in ("mAP", "rank1") if key in row]
    parts += [f"{metric.label} {row[metric.key]:.{metric.decimals}f}" for metric in shown]
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _last_words(error: BaseException) -> str:
    from harness.core.distributed.job import lost_process_error  # imports torch

    error = lost_process_error(error) or error
    if isinstance(error, HarnessError):
        return f"error: {error}"
    if isinstance(error, Exception):
        return "".join(format_exception(error)).rstrip()
    return f"Stopped ({type(error).__name__})."


class Reporter:
    """Prints a run's progress: `with Reporter() as reporter: …`. Each phase has one bar."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=False, highlight=False)
        self.live = self.console.is_terminal
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._name = self._left = ""
        self._last = 0.0
        self._log: Path | None = None

    def log_to(self, path: Path) -> None:
        """Append all lines, notices and the final error to a file as well, after the time of day.

        The file never stops a run: what cannot be written (a full disk) is left out.
        """
        self._log = path
        listeners.append(self._write)
        self._write(strftime("%Y-%m-%dT%H:%M:%SZ", gmtime()))

    def _write(self, text: str) -> None:
        with suppress(OSError):
            if self._log is not None:
                with self._log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(f"{text}\n")

    def __enter__(self) -> Reporter:
        if self.live:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(bar_width=None),
                TextColumn("{task.completed:.0f}/{task.total:.0f}"),
                TimeRemainingColumn(compact=True), TextColumn("[dim]{task.fields[left]}"),
                console=self.console, transient=True,
            )  # fmt: skip
            self._bar.start()
        return self

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._log is not None:
            if error is not None:
                self._write(_last_words(error))
            listeners.remove(self._write)
            self._log = None

    def say(self, text: str) -> None:
        """Print a permanent line."""
        self._write(text)
        self.show(text)

    def show(self, text: str) -> None:
        """Print a line that the log lacks."""
        self.console.print(text, markup=False, soft_wrap=True)
        if not self.live:
            sys.stdout.flush()

    def time_left(self, seconds: float | None) -> None:
        """Set the estimated time until the run ends, None if unknown."""
        self._left = "" if seconds is None else f"run ends in {duration(seconds)}"

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Print a finished epoch."""
        self.say(epoch_line(row) + (f"  [{self._left}]" if self._left and not self.live else ""))

    def phase(self, name: str) -> Callable[[int, int], None]:
        """Begin a phase; returns a callback that takes (done, total)."""
        self._name, self._last = name, time.monotonic()
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(name, total=1, left=self._left)
        return self._advance

    def _advance(self, done: int, total: int, note: str = "") -> None:
        if self._bar is not None and self._task is not None:
            text = f"{self._name} {note}" if note else self._name
            self._bar.update(
                self._task, completed=done, total=total, description=text, left=self._left
            )
        elif time.monotonic() - self._last > QUIET_SECONDS:
            self._last = time.monotonic()
            self.say(f"  {self._name} {done}/{total} {note}".rstrip())
