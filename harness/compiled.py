"""Loops that numba compiles for the CPU; where it is missing, torch does the same work, slower.

The loops release Python's lock, so plain threads share the rows of a job. Their machine code is
cached beside its source (or in the user's cache folder): they are compiled once per machine.
"""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


@functools.cache
def kernels(module: str) -> ModuleType | None:
    """A module of compiled loops, or None where numba is missing or broken."""
    try:
        return importlib.import_module(module)
    except Exception:  # a numba that does not fit its numpy raises more than ImportError
        return None


def pieces(total: int, threads: int | None = None, least: int = 1) -> list[tuple[int, int]]:
    """Cut 0 … total−1 into (start, stop) ranges, one a thread, none shorter than `least`."""
    count = max(1, min(threads or torch.get_num_threads(), total // max(1, least)))
    edges = [total * i // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))


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
