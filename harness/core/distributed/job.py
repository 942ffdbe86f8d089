"""A command that several processes run together: one alone prints, and an error ends them all."""

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
    board,
    count,
    is_distributed,
    join,
    leave,
    rank,
    rank_to_be,
)
from harness.core.errors import HarnessError

#: how long a process waits for another that fails, or tells of an error
TELLING = timedelta(seconds=10)


def all_failed(cell: int) -> bool:
    """Whether all processes say so of a cell of a sweep, each when it has failed in it. If not, one
    alone has, and they cannot go on together.
    """
    if not is_distributed():
        return True
    store, key, until = board[0], f"failed/{cell}", time.monotonic() + TELLING.total_seconds()
    store.add(key, 1)
    while (failed := store.add(key, 0)) < count() and time.monotonic() < until:
        time.sleep(0.05)
    return failed == count()


@contextlib.contextmanager
def job(report: Callable[[HarnessError], int]) -> Iterator[None]:
    """A command that several processes run together, if there are several: the first one alone
    prints, and an error of one ends all, told once.

    Args:
        report: tells of an error and returns the exit status.
    """
    if count() == 1:
        yield
        return
    with contextlib.ExitStack() as stack:
        if rank_to_be() > 0:
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        try:
            join()
            yield
        except (HarnessError, KeyboardInterrupt) as error:
            _end(error, report)
        except Exception as error:
            _end(lost(error) or error, report)
        leave()


def lost(error: BaseException) -> HarnessError | None:
    """What to say if an error means that another process is gone; None if something else."""
    text = str(error)
    if not is_distributed():
        return None
    if not isinstance(error, dist.DistError) and not (
        isinstance(error, RuntimeError) and ("gloo" in text or "NCCL" in text)
    ):
        return None
    return HarnessError(
        f"Process {rank()} of {count()} lost the others: one of them has ended.",
        "If it left no message of its own it was killed, perhaps for want of memory. The same "
        "command goes on from the last finished epoch.",
    )


def _end(error: BaseException, report: Callable[[HarnessError], int]) -> NoReturn:
    """End this process because of an error, of which one process alone tells.

    All may have met the same error, or one alone, and then the others for want of it: who is first
    tells. torchrun ends those that still work.
    """
    speaks = rank_to_be() == 0
    if board:
        with contextlib.suppress(Exception):  # the store may be gone: then the first one speaks
            speaks = board[0].add("errors", 1) == 1
            if not speaks:
                board[0].wait(["told"], TELLING)
    status = 130 if isinstance(error, KeyboardInterrupt) else 1
    if speaks:
        if isinstance(error, HarnessError):
            status = report(error)
        elif isinstance(error, KeyboardInterrupt):
            stopped = "\nStopped. The same command goes on from the last finished epoch."
            print(stopped, file=sys.stderr)
        else:
            traceback.print_exception(error)
        sys.stderr.flush()
        if board:
            with contextlib.suppress(Exception):
                board[0].set("told", "yes")
    sys.stdout.flush()
    os._exit(status)  # no destructor may wait for a process that is gone
