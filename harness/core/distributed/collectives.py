"""Collective operations. In a single process each returns its input unchanged."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.core.distributed.processes import is_distributed, local_rank, rank, world_size
from harness.core.errors import ConfigError, HarnessError

Result = TypeVar("Result")


def local_share(total: int) -> slice:
    """Rows of a global batch that this process computes: contiguous, in rank order.

    Raises HarnessError if the batch cannot be divided equally.
    """
    if not is_distributed():
        return slice(0, total)
    share, rest = divmod(total, world_size())
    if rest:
        raise HarnessError(f"{total} images cannot be shared equally by {world_size()} processes.")
    return slice(rank() * share, (rank() + 1) * share)


def local_rows(total: int, make: Callable[[slice], Tensor]) -> Tensor:
    """A batch (B, 3, H, W) in which only this process's rows are made; all other rows are NaN."""
    share = local_share(total)
    made = make(share)
    if not is_distributed():
        return made
    batch = torch.empty(
        (total, *made.shape[1:]), dtype=made.dtype, device=made.device,
        memory_format=torch.channels_last,
    )  # fmt: skip
    batch.fill_(torch.nan)[share] = made
    return batch


def all_rows(total: int, make: Callable[[slice], Tensor]) -> Tensor:
    """A batch (B, 3, H, W) in which all rows are made by every process."""
    return make(slice(0, total))


def shard_bounds(total: int, block: int) -> list[int]:
    """Bounds of each process's rows: process r has bounds[r] … bounds[r + 1] − 1, whole blocks."""
    shards = world_size() if is_distributed() else 1
    blocks = -(-total // block)
    return [min(total, blocks * r // shards * block) for r in range(shards + 1)]


def broadcast_from_first(make: Callable[[], Result]) -> Result:
    """Call `make` on rank 0 and return its (picklable) result on all ranks.

    A HarnessError that it raises is raised on all ranks.
    """
    if not is_distributed():
        return make()
    box: list[Any] = [None, None]
    if rank() == 0:
        try:
            box[0] = make()
        except HarnessError as error:
            box[1] = error
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    if box[1] is not None:
        raise box[1]
    return box[0]


def _all_gather_objects(value: Any) -> list[Any]:
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def check_all_equal(value: str, what: str) -> None:
    """Raise ConfigError unless all processes have the same value."""
    if not is_distributed():
        return
    first, *others = _all_gather_objects(value)
    for other, given in enumerate(others, start=1):
        if given != first:
            raise ConfigError(
                f"Process {other} has another {what} than process 0: {given}, not {first}.",
                "Use the same command, code and kind of device on all machines.",
            )


def all_agree(agrees: bool, device: torch.device) -> bool:
    """Whether all processes agree (logical and)."""
    if not is_distributed():
        return agrees
    flag = torch.tensor(int(agrees), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MIN)
    return bool(flag.item())


def local_rank_zero_first(make: Callable[[], Result]) -> Result:
    """Call `make` on each machine's local rank 0, then on its other ranks, which find its files.

    A HarnessError of a local rank 0 is raised on all ranks.
    """
    if not is_distributed():
        return make()
    made: list[Result] = []
    error: HarnessError | None = None
    if local_rank() == 0:
        try:
            made.append(make())
        except HarnessError as problem:
            error = problem
    for raised in filter(None, _all_gather_objects(error)):
        raise raised
    return made[0] if made else make()


@contextlib.contextmanager
def locked_by_first(lock: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Context in which rank 0 holds a lock; its HarnessError is raised on all ranks."""
    held: list[AbstractContextManager[Any]] = []
    broadcast_from_first(lambda: held.append(lock()))
    with contextlib.ExitStack() as stack:
        if held:
            stack.enter_context(held[0])
        yield


@torch.no_grad()
def gather_shards(rows: Tensor, bounds: Sequence[int]) -> Tensor:
    """Fill `rows` in place: each process provides its shard (see `shard_bounds`)."""
    if is_distributed():
        for source in range(world_size()):
            shard = rows[bounds[source] : bounds[source + 1]]
            if len(shard):
                dist.broadcast(shard, source)
    return rows


@torch.no_grad()
def broadcast_tensors(tensors: Sequence[Tensor]) -> None:
    """Overwrite tensors with those of rank 0, with one message per dtype and device."""
    if not is_distributed():
        return
    for kind in sorted({(t.dtype, t.device) for t in tensors}, key=str):
        alike = [t for t in tensors if (t.dtype, t.device) == kind]
        flat = torch.cat([t.reshape(-1) for t in alike])
        dist.broadcast(flat, 0)
        if rank() > 0:
            _unflatten(flat, alike)


@torch.no_grad()
def all_reduce_gradients(module: nn.Module, shared_out: set[int]) -> None:
    """Sum the gradients of all processes in place.

    `shared_out` has the ids of parameters whose gradient each process has in part. Every process
    has the full gradient of the others, which is averaged to keep the processes in sync.
    """
    if not is_distributed():
        return
    gradients = []
    for parameter in module.parameters():
        if parameter.grad is not None:
            if id(parameter) not in shared_out:
                parameter.grad.div_(world_size())
            gradients.append(parameter.grad)
    if gradients:
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        _unflatten(flat, gradients)


def _unflatten(flat: Tensor, targets: Sequence[Tensor]) -> None:
    for target, part in zip(targets, flat.split([t.numel() for t in targets]), strict=True):
        target.copy_(part.view(target.shape))


class _SumGradients(torch.autograd.Function):
    """Identity whose gradient is summed over processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


def all_gather(local: Tensor, sum_gradients: bool = False) -> Tensor:
    """Rows (b, …) of each process → (B, …) on all, in rank order, differentiable.

    Each process gets the gradient of its own rows by its own loss, which is that of all if every
    process computes the same; `sum_gradients` sums over the losses of all processes.
    """
    if not is_distributed():
        return local
    rows = local.detach().contiguous()
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows)
    parts[rank()] = local  # gradients flow to this process's own rows
    gathered = torch.cat(parts)
    return _SumGradients.apply(gathered) if sum_gradients else gathered
