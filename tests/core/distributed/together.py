"""Starts several processes on this machine, as torchrun does, for tests."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from harness.core.distributed import processes
from harness.experiment.run import run_experiment
from harness.results.store import Run
from harness.training.trainer import Trainer
from tests.tiny import tiny_config

Cells = Mapping[str, Sequence[str]]


def together(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(*arguments)` in `count` processes of one process group."""
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
    processes.initialize()
    work(*arguments)
    processes.shutdown()


def run_cells(folder: Path, cells: Cells) -> None:
    """Run tiny experiments one after another; save the labels and features of each epoch."""
    original, made = Trainer._label, []

    def spied(self: Trainer, epoch: int, features: torch.Tensor, row: Any) -> torch.Tensor:
        labels = original(self, epoch, features, row)
        made.append((labels.clone(), features.clone()))
        return labels

    Trainer._label = spied  # type: ignore[method-assign]
    try:
        for name, overrides in cells.items():
            made.clear()
            run_experiment(tiny_config(folder / name, *overrides, "threads=1"))
            torch.save(made, folder / name / f"labels-{processes.rank()}.pt")
    finally:
        Trainer._label = original  # type: ignore[method-assign]


def labels_of(folder: Path, rank: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Labels and features of each epoch of an experiment, as one process had them."""
    made: list[tuple[torch.Tensor, torch.Tensor]]
    made = torch.load(folder / f"labels-{rank}.pt", weights_only=True)
    return made


def the_run(folder: Path) -> Run:
    """The only finished run in a folder."""
    (record,) = folder.glob("runs/*/record.json")
    return Run(record.parent)
