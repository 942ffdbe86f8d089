"""Cells run by several processes on this machine, as torchrun would start them, for tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from harness.parallel import processes
from harness.results.store import Run
from tests.tiny import tiny_config

Cells = Mapping[str, Sequence[str]]


def together(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(*arguments)` in so many processes that have found each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(  # type: ignore[attr-defined]
        _process, (count, port, work, arguments), nprocs=count, start_method="spawn"
    )


def _process(
    rank: int, count: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    torch.set_num_threads(1)
    processes.join()
    work(*arguments)
    processes.leave()


def run_cells(folder: Path, cells: Cells) -> None:
    """Run tiny cells, one after another: `folder/NAME/runs`."""
    for name, overrides in cells.items():
        run_one(folder, name, overrides)


def run_one(folder: Path, name: str, overrides: Sequence[str]) -> Run:
    """One of them."""
    from harness.run import run_cell

    return run_cell(tiny_config(folder / name, *overrides, "threads=1"))


def the_run(folder: Path) -> Run:
    """The only run of a cell's folder."""
    (record,) = folder.glob("runs/*/record.json")
    return Run(record.parent)
