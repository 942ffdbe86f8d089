"""Loops that numba compiles for the CPU; where it is missing, torch does the same work, slower.

The loops release Python's lock, so plain threads share the rows of a job. Their machine code is
cached beside its source (or in the user's cache folder): they are compiled once per machine.
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

from harness.core.notices import say_once

Result = TypeVar("Result")


def loop(
    function: Callable[..., Any] | None = None, *, fastmath: bool = False
) -> Callable[..., Any]:
    """Decorate a function that numba is to compile; `fastmath` lets it reorder float sums.

    Raises:
        ImportError: numba is missing.
    """
    if function is None:
        return functools.partial(loop, fastmath=fastmath)
    from numba import njit

    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": fastmath}
    try:
        return njit(function, cache=True, **options)
    except RuntimeError:  # neither the source's folder nor the user's cache can be written
        return njit(function, **options)


@functools.cache
def kernels(module: str) -> ModuleType | None:
    """A module of compiled loops, or None, with a notice, where numba is missing or broken."""
    try:
        _say_when_compiling()
        return importlib.import_module(module)
    except Exception as error:  # a numba that does not fit its numpy raises more than ImportError
        reason = " ".join(str(error).split())[:100]
        say_once(f"numba cannot be used ({reason}): torch does its work, more slowly")
        return None


@functools.cache
def _say_when_compiling() -> None:
    from numba.core import event

    class Listener(event.Listener):
        def on_start(self, event: Any) -> None:
            say_once("compiling its loops, once on this machine …")

        def on_end(self, event: Any) -> None:
            pass

    event.register("numba:compile", Listener())


def pieces(total: int, count: int | None = None, least: int = 64) -> list[tuple[int, int]]:
    """Cut 0 … total−1 into (start, stop) ranges of about equal length.

    Args:
        count: how many, one a thread if left out. least: none is shorter, but for a lone one.
    """
    count = max(1, min(count or torch.get_num_threads(), total // least))
    return list(itertools.pairwise(total * i // count for i in range(count + 1)))


def in_threads(
    function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]
) -> list[Result]:
    """Call a compiled loop with each tuple of arguments, as many at once as torch has threads."""
    calls = list(arguments)
    threads = min(torch.get_num_threads(), len(calls))
    if threads <= 1:
        return [function(*call) for call in calls]
    return list(_pool(threads).map(lambda call: function(*call), calls))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="harness")


if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
