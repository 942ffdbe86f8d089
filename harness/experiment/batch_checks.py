"""Whether a batch can be shared and cut, asked when a configuration is composed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.core.distributed.processes import world_size
from harness.core.errors import ConfigError


def check_pieces(batch: Mapping[str, Any], micro_batch: object, where: str = "") -> None:
    """Whether the batches of a stage can be shared by the processes, and cut as is wanted.

    Args:
        batch: the section `batch`. micro_batch: `train.micro_batch`. where: begins the message.

    Raises:
        ConfigError: they cannot.
    """
    images, group = int(batch["identities"]) * int(batch["images"]), int(batch["samples_per_bn"])
    check_share(images, group, where)
    check_micro_batch(micro_batch, images, group, where)


def check_share(batch: int, samples_per_bn: int, where: str = "") -> None:
    """Whether every process can take an equal share of a batch, with whole batch-norm groups.

    Raises:
        ConfigError: it cannot; says what would do.
    """
    shares = world_size()
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
            f"Start {_fitting(batch // samples_per_bn)} processes, or set "
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
    share = batch // world_size()
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


def _fitting(groups: int) -> str:
    """Into how many equal shares so many groups can be divided: "1, 2 or 4"."""
    *others, last = [str(n) for n in range(1, groups + 1) if groups % n == 0]
    return f"{', '.join(others)} or {last}"
