"""The status of a run: finished, running, failed, unfinished or damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import gmtime, strftime
from traceback import format_exception
from typing import Any

from harness.core.errors import HarnessError, first_line
from harness.core.files import read_json, write_json
from harness.results.store import REPLACEMENT, UNREADABLE_JSON, Run

FAILED = "failed.json"


@dataclass(frozen=True)
class State:
    """kind: finished, running, failed, unfinished or damaged. detail: metrics, epoch or error."""

    kind: str
    detail: str = ""

    def __str__(self) -> str:
        if self.kind == "finished":
            return self.detail
        sign = ": " if self.kind in ("failed", "damaged") else " "
        return f"{self.kind}{sign if self.detail else ''}{self.detail}"


def state(run: Run) -> State:
    """The state of a run."""
    if run.problem:
        return State("running") if run.running else State("damaged", run.problem)
    if run.finished:
        metrics = run.record["metrics"]
        detail = "trained, not evaluated"
        if metrics:
            detail = f"mAP {metrics['mAP']:.1f}  Rank-1 {metrics['rank1']:.1f}"
        if (run.folder / REPLACEMENT).is_dir():
            why = failure(Run(run.folder / REPLACEMENT))
            how = f"failed: {why.get('error', 'unknown')}" if why else "is unfinished"
            detail += f"  (overwrite=always {'is running' if run.running else how})"
        return State("finished", detail)
    try:
        history = run.history()
    except HarnessError as error:
        return State("damaged", error.cause)
    at = f"after {history[-1].get('stage')} {history[-1].get('epoch')}" if history else ""
    if run.running:
        return State("running", at)
    if why := failure(run):
        return State("failed", f"{why.get('error', 'unknown')}{f' ({at})' if at else ''}")
    return State("unfinished", at)


def failure(run: Run) -> dict[str, Any] | None:
    """Why a run failed: error, hint, kind, stage, epoch, time and, for unexpected errors, the
    traceback. None if it did not fail.
    """
    try:
        found = read_json(run.folder / FAILED)
    except FileNotFoundError:
        return None
    except UNREADABLE_JSON:
        found = None
    return found if isinstance(found, dict) else {"error": f"{FAILED} cannot be read"}


@contextmanager
def noting_failure(run: Run, history: Callable[[], Sequence[Mapping[str, Any]]]) -> Iterator[None]:
    """Write `failed.json` to a run's folder if an exception passes; delete an older one. A run that
    is stopped (Ctrl-C, a scheduler) is unfinished, not failed.
    """
    (run.folder / FAILED).unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        from harness.core.distributed.job import lost_process_error  # imports torch

        known = error if isinstance(error, HarnessError) else lost_process_error(error)
        last = history()[-1] if history() else {}
        note = {
            "error": known.cause if known else first_line(error),
            "hint": known.hint if known else "", "kind": type(error).__name__,
            "stage": last.get("stage"), "epoch": last.get("epoch"),
            "time": strftime("%Y-%m-%dT%H:%M:%SZ", gmtime()),
            "traceback": None if known else "".join(format_exception(error)),
        }  # fmt: skip
        with suppress(HarnessError):  # the disk may be full; the first error counts
            write_json(run.folder / FAILED, note)
        raise
