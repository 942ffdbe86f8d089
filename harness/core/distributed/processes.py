"""One job on several GPUs or machines: `torchrun --nproc-per-node=4 -m harness run …`.

torchrun starts the processes and tells each its RANK and the WORLD_SIZE; everything here does
nothing where there is but one. The first process (rank 0) alone prints, writes the store and holds
its lock; what only it knows, the others are told (`harness.core.distributed.collectives`).
"""

from __future__ import annotations

import io
import os
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from torch.distributed.rendezvous import rendezvous

from harness.core.errors import ConfigError, HarnessError

#: how long a process waits for another, which may be making labels meanwhile
PATIENCE = timedelta(minutes=30)
#: the processes' notice board: there before any collective call, and after one has failed
board: list[Any] = []


def count() -> int:
    """How many processes there are, or will be once they have found each other."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    if "TORCHELASTIC_RUN_ID" not in os.environ and "MASTER_ADDR" not in os.environ:
        return 1  # other programs have a RANK, too
    return int(os.environ.get("WORLD_SIZE") or 1) if "RANK" in os.environ else 1


def rank() -> int:
    """Which of them this is; 0 as long as they have not found each other."""
    return dist.get_rank() if is_distributed() else 0


def rank_to_be() -> int:
    """Which of them this is or will be."""
    return rank() or (int(os.environ.get("RANK") or 0) if count() > 1 else 0)


def local_rank() -> int:
    """Which of those on this machine."""
    return int(os.environ.get("LOCAL_RANK") or rank_to_be()) if count() > 1 else 0


def is_distributed() -> bool:
    """Whether the processes have found each other, so that they can share work."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def join() -> None:
    """Find the other processes, if there are any. Nothing happens the second time.

    Raises:
        HarnessError: they cannot be reached.
    """
    if count() == 1 or dist.is_initialized():
        return
    gpus = torch.cuda.is_available() and dist.is_nccl_available()
    try:
        store, own, world = next(iter(rendezvous("env://", timeout=PATIENCE)))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo",
            store=store,
            rank=own,
            world_size=world,
            timeout=PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        raise HarnessError(
            f"Process {rank_to_be()} of {count()} does not find the others: {error}",
            "Start them with torchrun, with one --rdzv-endpoint for all machines.",
        ) from error
    board.append(dist.distributed_c10d.PrefixStore("harness", store))


def leave() -> None:
    """The end of the job, reached by all."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    board.clear()


def device_name(name: str) -> str:
    """`device=` for this process: of several on a machine, each takes a GPU of its own.

    Raises:
        ConfigError: there are fewer GPUs than processes here, or one was named for all of them.
    """
    if count() == 1 or name == "cpu":
        return name
    if name == "auto" and not torch.cuda.is_available():
        return "cpu"
    if name not in ("auto", "cuda"):
        raise ConfigError(
            f"device={name}, but each of {count()} processes takes a GPU of its own.",
            "Leave device= out, or hide GPUs with CUDA_VISIBLE_DEVICES.",
        )
    gpus = torch.cuda.device_count()
    if local_rank() >= gpus:
        raise ConfigError(
            f"More processes than GPUs on {socket.gethostname()}: PyTorch sees {gpus} there.",
            f"Use torchrun --nproc-per-node={gpus or 1}, or device=cpu.",
        )
    return f"cuda:{local_rank()}"


def threads() -> int:
    """CPU threads of each process if all of a machine's share its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (cores or 1) // int(os.environ.get("LOCAL_WORLD_SIZE") or count()))


def console() -> Console:
    """Where a run is shown: nowhere, if not in the first process."""
    return Console(highlight=False, quiet=rank() > 0, file=io.StringIO() if rank() > 0 else None)
