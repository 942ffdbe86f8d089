"""One job on several GPUs or machines: `torchrun --nproc-per-node=4 -m harness run …`.

torchrun starts the processes and tells each its RANK and the WORLD_SIZE; everything here does
nothing where there is but one. The first process (rank 0) alone prints, writes the store and holds
its lock; what only it knows, the others are told (`from_first`).
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor, nn

from harness.errors import ConfigError, HarnessError

Result = TypeVar("Result")

#: how long a process waits for another, which may be making labels meanwhile
PATIENCE = timedelta(minutes=30)
#: how long one that has nothing to say waits for the one that tells of an error
TELLING = timedelta(seconds=10)


def count() -> int:
    """How many processes there are, or will be once they have found each other."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    if "TORCHELASTIC_RUN_ID" not in os.environ and "MASTER_ADDR" not in os.environ:
        return 1  # other programs have a RANK, too
    return int(os.environ.get("WORLD_SIZE") or 1) if "RANK" in os.environ else 1


def rank() -> int:
    """Which of them this is; 0 as long as they have not found each other."""
    return dist.get_rank() if several() else 0


def _rank_to_be() -> int:
    return rank() or (int(os.environ.get("RANK") or 0) if count() > 1 else 0)


def local_rank() -> int:
    """Which of those on this machine."""
    return int(os.environ.get("LOCAL_RANK") or _rank_to_be()) if count() > 1 else 0


def several() -> bool:
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
        store, own, world = next(iter(dist.rendezvous("env://", timeout=PATIENCE)))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpus else "gloo",
            store=store,
            rank=own,
            world_size=world,
            timeout=PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        raise HarnessError(
            f"Process {_rank_to_be()} of {count()} does not find the others: {error}",
            "Start them with torchrun, with one --rdzv-endpoint for all machines.",
        ) from error
    _store.append(dist.PrefixStore("harness", store))


_store: list[Any] = []


def leave() -> None:
    """The end of the job, reached by all."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    _store.clear()


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


def check_share(batch: int, samples_per_bn: int, where: str = "") -> None:
    """Whether every process can take an equal share of a batch, with whole batch-norm groups.

    Raises:
        ConfigError: it cannot; says what would do.
    """
    shares = count()
    if batch % shares:
        raise ConfigError(
            f"{where}A batch of {batch} images cannot be shared equally by {shares} processes.",
            "Start another number of processes, or change batch.identities or batch.images.",
        )
    share = batch // shares
    if 0 < samples_per_bn < batch and share % samples_per_bn:
        raise ConfigError(
            f"{where}{shares} processes take {share} of {batch} images each, which are no whole "
            f"groups of batch.samples_per_bn={samples_per_bn}: a group's statistics would need "
            "images of two of them.",
            f"Start {_fitting(batch // samples_per_bn, shares)} processes, or set "
            "batch.samples_per_bn=0 for statistics over the whole batch.",
        )


def check_micro_batch(size: object, batch: int, samples_per_bn: int, where: str = "") -> None:
    """Whether `train.micro_batch` is `auto` or so many images that batch-norm groups stay whole.

    Raises:
        ConfigError: it is not.
    """
    if size == "auto":
        return
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ConfigError(
            f"{where}train.micro_batch={size} must be a whole number, 1 or more, or auto."
        )
    share = batch // count()
    if size >= share:
        return
    if samples_per_bn == 0 or samples_per_bn >= batch:
        raise ConfigError(
            f"{where}train.micro_batch={size}, but batch.samples_per_bn={samples_per_bn} takes "
            f"statistics over the whole batch of {batch} images, which has to be computed at once.",
            "Set batch.samples_per_bn to less, or leave train.micro_batch out.",
        )
    if size % samples_per_bn:
        raise ConfigError(
            f"{where}train.micro_batch={size} cuts batch-norm groups of {samples_per_bn} images.",
            f"Choose a multiple of batch.samples_per_bn={samples_per_bn}.",
        )


def _fitting(groups: int, shares: int) -> int:
    """The largest number of processes, not above `shares`, that take whole groups each."""
    return max(n for n in range(1, max(2, min(groups, shares) + 1)) if groups % n == 0)


# ---------------------------------------------------------------------------------- sharing work


def own_share(total: int) -> slice:
    """The rows of a global batch that this process computes, contiguous and in rank order.

    Raises:
        HarnessError: the processes cannot take equal shares of so many.
    """
    if not several():
        return slice(0, total)
    share, rest = divmod(total, count())
    if rest:
        raise HarnessError(f"{total} images cannot be shared equally by {count()} processes.")
    return slice(rank() * share, (rank() + 1) * share)


def borders(total: int, block: int) -> list[int]:
    """Where each process's rows begin if all get about equally many whole blocks: process r has
    rows borders[r] … borders[r + 1].
    """
    shares = count() if several() else 1
    blocks = -(-total // block)
    return [min(total, blocks * r // shares * block) for r in range(shares + 1)]


def from_first(make: Callable[[], Result]) -> Result:
    """What `make` gives in the first process, in all of them. It must be picklable.

    Raises:
        HarnessError: what `make` raised there, everywhere.
    """
    if not several():
        return make()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box = [make(), None]
        except HarnessError as error:
            box = [None, error]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    if box[1] is not None:
        raise box[1]
    return box[0]


def check_same(value: str, what: str) -> None:
    """Whether all processes have the same.

    Raises:
        ConfigError: they do not.
    """
    if not several():
        return
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    for other, given in enumerate(values):
        if given != values[0]:
            raise ConfigError(
                f"Process {other} has another {what} than the first: {given}, not {values[0]}.",
                "Give all machines the same command, code and kind of device.",
            )


def all_can(own: bool, device: torch.device) -> bool:
    """Whether all processes say yes. All wait for each other."""
    if not several():
        return own
    flag = torch.tensor(int(own), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag.item())


def first_here_first(make: Callable[[], Result]) -> Result:
    """What `make` gives, asked in the first process of each machine before the others, who then
    find its files.

    Raises:
        HarnessError: what it raised in one of those first ones, everywhere.
    """
    if not several():
        return make()
    made: list[Result] = []
    error: HarnessError | None = None
    if local_rank() == 0:
        try:
            made.append(make())
        except HarnessError as problem:
            error = problem
    errors: list[Any] = [None] * count()
    dist.all_gather_object(errors, error)
    for problem in filter(None, errors):
        raise problem
    return made[0] if made else make()


@contextlib.contextmanager
def held_by_first(lock: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Work while the first process holds a lock.

    Raises:
        HarnessError: it does not get it; in all processes.
    """
    held: list[AbstractContextManager[Any]] = []
    from_first(lambda: held.append(lock()))
    with contextlib.ExitStack() as stack:
        if held:
            stack.enter_context(held[0])
        yield


def console() -> Console:
    """Where a run is shown: nowhere, if not in the first process."""
    return Console(highlight=False, quiet=rank() > 0, file=io.StringIO() if rank() > 0 else None)


@torch.no_grad()
def gather_rows(rows: Tensor, borders: Sequence[int]) -> Tensor:
    """Fill in place, from the process that has them, rows borders[r] … borders[r + 1] of each r."""
    if several():
        for source in range(count()):
            part = rows[borders[source] : borders[source + 1]]
            if len(part):
                dist.broadcast(part, source)
    return rows


@torch.no_grad()
def same_as_first(tensors: Sequence[Tensor]) -> None:
    """Give every process the first one's values, in place; one message for each kind of number."""
    if not several():
        return
    for kind in sorted({t.dtype for t in tensors}, key=str):
        alike = [t for t in tensors if t.dtype == kind]
        flat = torch.cat([t.reshape(-1) for t in alike])
        dist.broadcast(flat, 0)
        if rank() > 0:
            _put_back(flat, alike)


@torch.no_grad()
def sum_gradients(module: nn.Module, shared_out: set[int]) -> None:
    """Sum the gradients of all processes, in place.

    Args:
        shared_out: ids of parameters of which each process has its share of the gradient. The
            others' gradients are whole in each, so their mean is taken; it ties them together.
    """
    if not several():
        return
    gradients = []
    for parameter in module.parameters():
        if parameter.grad is not None:
            if id(parameter) not in shared_out:
                parameter.grad.div_(count())
            gradients.append(parameter.grad)
    if gradients:
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        _put_back(flat, gradients)


def _put_back(flat: Tensor, into: Sequence[Tensor]) -> None:
    for target, part in zip(into, flat.split([t.numel() for t in into]), strict=True):
        target.copy_(part.view(target.shape))


class _Gather(torch.autograd.Function):
    """(b, …) of each process → (B, …) in all, in rank order.

    `summed`: whether gradients of all processes flow back; else this process's own alone, as it
    has to be where all of them compute the same from what is gathered.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, summed: bool) -> Tensor:
        ctx.summed, ctx.rows = summed, len(own)
        parts = [torch.empty(own.shape, dtype=own.dtype, device=own.device) for _ in range(count())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        if ctx.summed:
            gradient = gradient.contiguous().clone()
            dist.all_reduce(gradient)
        start = rank() * ctx.rows
        return gradient[start : start + ctx.rows], None


def gather(own: Tensor, summed: bool = False) -> Tensor:
    """Rows (b, …) of all processes, (B, …), with gradient.

    Args:
        summed: false where every process computes the same loss of all rows, and this one's share
            of the gradient is what it finds at its own rows; true where each computes a loss of
            its own.
    """
    if not several():
        return own
    gathered: Tensor = _Gather.apply(own, summed)
    return gathered


# -------------------------------------------------------------------------------------- the end


def all_failed(cell: int) -> bool:
    """Whether all processes say so of a cell of a sweep, each when it has failed in it. If not, one
    alone has, and they cannot go on together.
    """
    if not several():
        return True
    store, key, until = _store[0], f"failed/{cell}", time.monotonic() + TELLING.total_seconds()
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
        if _rank_to_be() > 0:
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        try:
            join()
            yield
        except HarnessError as error:
            _end(error, lambda problem: report(error))
        except KeyboardInterrupt as error:
            _end(error, lambda problem: 130)
        except Exception as error:
            _end(error, lambda problem: report(problem) if problem else _unexpected(error))
        leave()


def _unexpected(error: BaseException) -> int:
    traceback.print_exception(error)
    return 1


def _lost(error: BaseException) -> HarnessError | None:
    """What to say if an error means that another process is gone; None if something else."""
    text = str(error)
    if not isinstance(error, dist.DistError) and not (
        isinstance(error, RuntimeError) and ("gloo" in text or "NCCL" in text)
    ):
        return None
    return HarnessError(
        f"Process {rank()} of {count()} lost the others: one of them has ended.",
        "If it left no message of its own it was killed, perhaps for want of memory. The same "
        "command goes on from the last finished epoch.",
    )


def _end(error: BaseException, tell: Callable[[HarnessError | None], int]) -> NoReturn:
    """End this process because of an error, of which one process alone tells.

    All may have met the same error, or one alone, and then the others for want of it: who is first
    tells. torchrun ends those that still work.
    """
    speaks = _rank_to_be() == 0
    if _store:
        with contextlib.suppress(Exception):  # the store may be gone: then the first one speaks
            speaks = _store[0].add("errors", 1) == 1
            if not speaks:
                _store[0].wait(["told"], TELLING)
    problem = _lost(error)
    status = 1
    if speaks:
        status = tell(problem)
        sys.stderr.flush()
        if _store:
            with contextlib.suppress(Exception):
                _store[0].set("told", "yes")
    sys.stdout.flush()
    os._exit(status)  # no destructor may wait for a process that is gone
