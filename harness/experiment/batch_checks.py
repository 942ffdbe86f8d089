"""Check that batches can be shared by processes and split into micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.core.distributed.processes import world_size
from harness.core.errors import ConfigError


def check_batches(batch: Mapping[str, Any], micro_batch: object, where: str = "") -> None:
    """Check that every process gets an equal share, and that batch-norm groups stay whole.

    Args:
        batch: the section `batch`. micro_batch: `train.micro_batch`. where: begins the message.

    Raises:
        ConfigError: with what would fit.
    """
    size, group = int(batch["identities"]) * int(batch["images"]), int(batch["samples_per_bn"])
    whole = group == 0 or group >= size  # statistics over the whole batch
    processes = world_size()
    share = size // processes
    if size % processes:
        raise ConfigError(
            f"{where}A batch of {size} images cannot be shared equally by {processes} processes.",
            "Start another number of processes, or change batch.identities or batch.images.",
        )
    if not whole and share % group:
        raise ConfigError(
            f"{where}{processes} processes take {share} of {size} images each, which are not whole "
            f"groups of batch.samples_per_bn={group}.",
            f"Start {_divisors(size // group)} processes, or set batch.samples_per_bn=0 for "
            "statistics over the whole batch.",
        )
    if micro_batch == "auto":
        return
    if not isinstance(micro_batch, int) or isinstance(micro_batch, bool) or micro_batch < 1:
        raise ConfigError(
            f"{where}train.micro_batch={micro_batch} must be a whole number, 1 or more, or auto."
        )
    if micro_batch >= share:
        return
    if whole:
        raise ConfigError(
            f"{where}train.micro_batch={micro_batch}, but batch.samples_per_bn={group} takes "
            f"statistics over the whole batch of {size} images, which must be computed at once.",
            "Lower batch.samples_per_bn, or leave train.micro_batch out.",
        )
    if micro_batch % group:
        raise ConfigError(
            f"{where}train.micro_batch={micro_batch} splits batch-norm groups of {group} images.",
            f"Choose a multiple of batch.samples_per_bn={group}.",
        )


def _divisors(number: int) -> str:
    """Numbers that divide another one: "1, 2 or 4"."""
    *others, last = [str(n) for n in range(1, number + 1) if number % n == 0]
    return f"{', '.join(others)} or {last}"
