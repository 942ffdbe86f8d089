"""A command run by several processes: only rank 0 prints, and an error ends all of them."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist

from harness.core.distributed.processes import (
    assigned_rank,
    initialize,
    is_distributed,
    job_store,
    rank,
    shutdown,
    world_size,
)
from harness.core.errors import HarnessError

#: how long a process waits for others to fail as well, or to report an error
ERROR_TIMEOUT = timedelta(seconds=10)


def all_failed(number: int) -> bool:
    """Whether all processes failed in experiment `number` of a sweep, so that it can continue.

    Called by each process that failed. If only some fail, the processes are out of step.
    """
    store = job_store()
    if not is_distributed() or store is None:
        return True
    key, until = f"failed/{number}", time.monotonic() + ERROR_TIMEOUT.total_seconds()
    store.add(key, 1)
    while (failed := store.add(key, 0)) < world_size() and time.monotonic() < until:
        time.sleep(0.05)
    return failed == world_size()


@contextlib.contextmanager
def job(report: Callable[[HarnessError], int]) -> Iterator[None]:
    """Context for a command that several processes may run together.

    Only rank 0 prints. An error in one process ends all; `report` prints it once and returns the
    exit status.
    """
    if world_size() == 1:
        yield
        return
    with contextlib.ExitStack() as stack:
        if assigned_rank() > 0:
            devnull = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stdout(devnull))
        try:
            initialize()
            yield
        except (HarnessError, KeyboardInterrupt) as error:
            _exit(error, report)
        except Exception as error:
            _exit(lost_process_error(error) or error, report)
        shutdown()


def lost_process_error(error: BaseException) -> HarnessError | None:
    """The error to report if `error` means that another process has died; None for other errors."""
    lost = isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error))
    if not is_distributed() or not (lost or isinstance(error, dist.DistError)):
        return None
    return HarnessError(
        f"Process {rank()} of {world_size()} lost the others: one of them has ended.",
        "If it printed no error it was killed, perhaps for lack of memory. Repeat the command to "
        "continue from the last finished epoch.",
    )


def _exit(error: BaseException, report: Callable[[HarnessError], int]) -> NoReturn:
    """Exit this process because of an error that exactly one process reports.

    Either all processes fail alike, or one fails and the others then lose it: the first to fail
    reports. torchrun ends the processes that still run.
    """
    reports = assigned_rank() == 0
    store = job_store()
    if store is not None:
        with contextlib.suppress(Exception):  # the store may be gone: then rank 0 reports
            reports = store.add("errors", 1) == 1
            if not reports:
                store.wait(["reported"], ERROR_TIMEOUT)
    status = 130 if isinstance(error, KeyboardInterrupt) else 1
    if reports:
        if isinstance(error, HarnessError):
            status = report(error)
        elif isinstance(error, KeyboardInterrupt):
            hint = "Repeat the command to continue from the last finished epoch."
            print(f"\nStopped. {hint}", file=sys.stderr)
        else:
            traceback.print_exception(error)
        sys.stderr.flush()
        if store is not None:
            with contextlib.suppress(Exception):
                store.set("reported", "yes")
    sys.stdout.flush()
    os._exit(status)  # destructors could wait for a process that is gone
