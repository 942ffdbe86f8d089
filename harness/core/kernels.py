"""CPU loops compiled by numba. Without numba, callers fall back to slower torch code.

Compiled loops release the GIL, so plain threads can share the rows of a job. Machine code is cached
beside the source (or in the user's cache folder): it is compiled once per machine.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, TypeVar

import torch

from harness.core.errors import say_once

Result = TypeVar("Result")


def loop(
    function: Callable[..., Any] | None = None, *, fastmath: bool = False
) -> Callable[..., Any]:
    """Decorator: compile a function with numba; `fastmath` lets it reorder float sums."""
    if function is None:
        return functools.partial(loop, fastmath=fastmath)
    from numba import njit

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError:  # neither the source folder nor the user's cache is writable
        return njit(function, **options)


@functools.cache
def kernels(module: str) -> ModuleType | None:
    """Import a module of compiled loops; None, with a notice, if numba is missing or broken."""
    try:
        _announce_compilation()
        return importlib.import_module(module)
    except Exception as error:  # numba raises many types when it does not match numpy
        reason = " ".join(str(error).split())[:100]
        say_once(f"numba is not usable ({reason}); using slower torch code instead")
        return None


@functools.cache
def _announce_compilation() -> None:
    from numba.core import event

    class Listener(event.Listener):
        def on_start(self, event: Any) -> None:
            say_once("compiling CPU kernels, once on this machine …")

        def on_end(self, event: Any) -> None:
            pass

    event.register("numba:compile", Listener())


def row_ranges(total: int, count: int | None = None, min_rows: int = 64) -> list[tuple[int, int]]:
    """Split rows 0 … total−1 into `count` (start, stop) ranges, one per thread by default.

    Ranges are not shorter than `min_rows`, unless there is only one.
    """
    count = max(1, min(count or torch.get_num_threads(), total // min_rows))
    return list(itertools.pairwise(total * i // count for i in range(count + 1)))


def in_threads(
    function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]
) -> list[Result]:
    """Call a compiled loop with each tuple of arguments, on as many threads as torch uses."""
    calls = list(arguments)
    threads = min(torch.get_num_threads(), len(calls))
    if threads <= 1:
        return [function(*call) for call in calls]
    return list(_pool(threads).map(lambda call: function(*call), calls))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="harness")


if hasattr(os, "register_at_fork"):  # a forked child does not inherit its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
