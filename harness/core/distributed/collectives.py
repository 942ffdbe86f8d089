"""What processes tell each other. With one process every function is the plain thing itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.core.distributed.processes import count, is_distributed, local_rank, rank
from harness.core.errors import ConfigError, HarnessError

Result = TypeVar("Result")


def own_share(total: int) -> slice:
    """The rows of a global batch that this process computes, contiguous and in rank order.

    Raises:
        HarnessError: the processes cannot take equal shares of so many.
    """
    if not is_distributed():
        return slice(0, total)
    share, rest = divmod(total, count())
    if rest:
        raise HarnessError(f"{total} images cannot be shared equally by {count()} processes.")
    return slice(rank() * share, (rank() + 1) * share)


def only_own(total: int, make: Callable[[slice], Tensor]) -> Tensor:
    """The images of a batch (B, 3, H, W), of which `make` makes the rows of this process's share;
    the others', NaN, are nobody's to look at.
    """
    own = own_share(total)
    made = make(own)
    if not is_distributed():
        return made
    batch = torch.empty(
        (total, *made.shape[1:]), dtype=made.dtype, device=made.device,
        memory_format=torch.channels_last,
    )  # fmt: skip
    batch.fill_(torch.nan)
    batch[own] = made
    return batch


def whole(total: int, make: Callable[[slice], Tensor]) -> Tensor:
    """All of them."""
    return make(slice(0, total))


def borders(total: int, block: int) -> list[int]:
    """Where each process's rows begin if all get about equally many whole blocks: process r has
    rows borders[r] … borders[r + 1].
    """
    shares = count() if is_distributed() else 1
    blocks = -(-total // block)
    return [min(total, blocks * r // shares * block) for r in range(shares + 1)]


def from_first(make: Callable[[], Result]) -> Result:
    """What `make` gives in the first process, in all of them. It must be picklable.

    Raises:
        HarnessError: what `make` raised there, everywhere.
    """
    if not is_distributed():
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
    if not is_distributed():
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
    if not is_distributed():
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
    if not is_distributed():
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
    for found in errors:
        if found is not None:
            raise found
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


@torch.no_grad()
def gather_rows(rows: Tensor, borders: Sequence[int]) -> Tensor:
    """Fill in place, from the process that has them, rows borders[r] … borders[r + 1] of each r."""
    if is_distributed():
        for source in range(count()):
            part = rows[borders[source] : borders[source + 1]]
            if len(part):
                dist.broadcast(part, source)
    return rows


@torch.no_grad()
def same_as_first(tensors: Sequence[Tensor]) -> None:
    """Give every process the first one's values, in place; one message for each kind of number."""
    if not is_distributed():
        return
    for kind in sorted({(t.dtype, t.device) for t in tensors}, key=str):
        alike = [t for t in tensors if (t.dtype, t.device) == kind]
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
    if not is_distributed():
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
    if not is_distributed():
        return own
    gathered: Tensor = _Gather.apply(own, summed)
    return gathered
