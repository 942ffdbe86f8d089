"""Process groups: `torchrun --nproc-per-node=4 -m harness run …`.

torchrun starts the processes and sets RANK and WORLD_SIZE. With a single process, nothing here has
any effect. Only rank 0 prints, writes the store and holds its lock; other ranks receive its
results through `harness.core.distributed.collectives`.
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

#: how long a process waits for another one, which may be computing labels
TIMEOUT = timedelta(minutes=30)
_store: Any = None


def world_size() -> int:
    """Number of processes, also before the process group is initialized."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    if "TORCHELASTIC_RUN_ID" not in os.environ and "MASTER_ADDR" not in os.environ:
        return 1  # other launchers set RANK as well
    return int(os.environ.get("WORLD_SIZE") or 1) if "RANK" in os.environ else 1


def rank() -> int:
    """Rank of this process; 0 before the process group is initialized."""
    return dist.get_rank() if is_distributed() else 0


def assigned_rank() -> int:
    """Rank of this process, also before the process group is initialized."""
    return rank() or (int(os.environ.get("RANK") or 0) if world_size() > 1 else 0)


def local_rank() -> int:
    """Rank among the processes of this machine."""
    return int(os.environ.get("LOCAL_RANK") or assigned_rank()) if world_size() > 1 else 0


def is_distributed() -> bool:
    """Whether a process group of several processes is initialized."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def job_store() -> Any:
    """The job's `torch.distributed.Store`, which works even after a process has failed; or None."""
    return _store


def initialize() -> None:
    """Initialize the process group, once, if there are several processes.

    Raises HarnessError if the other processes cannot be reached.
    """
    global _store
    if world_size() == 1 or dist.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
    try:
        store, own, size = next(iter(rendezvous("env://", timeout=TIMEOUT)))
        dist.init_process_group(backend, store=store, rank=own, world_size=size, timeout=TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise HarnessError(
            f"Process {assigned_rank()} of {world_size()} cannot reach the others: {error}",
            "Start them with torchrun, with the same --rdzv-endpoint on all machines.",
        ) from error
    _store = dist.distributed_c10d.PrefixStore("harness", store)


def shutdown() -> None:
    """Destroy the process group; every process has to call it."""
    global _store
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    _store = None


def local_device(name: str) -> str:
    """The device of this process, given `device=`: each process of a machine gets its own GPU.

    Raises ConfigError if there are fewer GPUs than processes, or one GPU is named for all of them.
    """
    if world_size() == 1 or name == "cpu":
        return name
    if name == "auto" and not torch.cuda.is_available():
        return "cpu"
    if name not in ("auto", "cuda"):
        raise ConfigError(
            f"device={name}, but each of {world_size()} processes needs a GPU of its own.",
            "Omit device=, or hide GPUs with CUDA_VISIBLE_DEVICES.",
        )
    gpus = torch.cuda.device_count()
    if local_rank() >= gpus:
        raise ConfigError(
            f"More processes than GPUs on {socket.gethostname()}: PyTorch finds {gpus}.",
            f"Use torchrun --nproc-per-node={gpus or 1}, or device=cpu.",
        )
    return f"cuda:{local_rank()}"


def processes_here() -> int:
    """The number of the experiment's processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or world_size())


def cores() -> int:
    """The number of processors that this process may use."""
    found = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return len(found) or os.cpu_count() or 1


def use_threads(count: int, option: str) -> None:
    """Let torch compute with `count` CPU threads.

    Args:
        option: its name and value, for the error.

    Raises:
        ConfigError: there are fewer processors than threads, which would take turns, slowly.
    """
    if not 1 <= count <= cores():
        raise ConfigError(
            f"{option} must be from 1 to the number of processors that this process may use, "
            f"{cores()}.",
            "Omit it to use all of them.",
        )
    torch.set_num_threads(count)


def threads_per_process() -> int:
    """CPU threads of each process if all processes of a machine share its cores equally."""
    return max(1, cores() // processes_here())


def rank_zero_console() -> Console:
    """A console that prints on rank 0 only."""
    return Console(highlight=False, quiet=rank() > 0, file=io.StringIO() if rank() > 0 else None)
