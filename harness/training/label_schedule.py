"""The label schedule of a stage, and the epochs after which it is tested."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.errors import ConfigError

#: whole numbers are epochs, fractions below 1 are shares of a stage's epochs
Lengths = int | float | Sequence[int | float]


def label_schedule(label_every: Lengths, epochs: int) -> list[int]:
    """How often the labeler runs before each of the epochs 0 … `epochs` − 1.

    Labels last for `label_every` epochs. In a list, the first number is the length of the first
    labels, and so on; the last number applies to all later ones. A fraction below 1 is a share of
    the epochs: [20, 2] and [20/56, 2/56] are the same in 56 epochs, but in 28 the second means 10
    and 1. Ends are rounded to whole epochs. If several labels would end within one epoch, the
    labeler runs as many times, so that one that builds on its last labels (BUC's) gets as far in a
    short training as in a long one.

    >>> label_schedule([3, 2], 6)
    [1, 0, 0, 1, 0, 1]
    >>> label_schedule([0.5, 0.125], 4)
    [1, 0, 2, 1]
    """
    lengths = list(_as_list(label_every))
    runs, end, number = [0] * epochs, 0.0, 0
    while round(end) < epochs:
        runs[round(end)] += 1
        length = lengths[min(number, len(lengths) - 1)]
        end += length * epochs if length < 1 else length
        number += 1
    return runs


def check_label_every(label_every: object, where: str = "") -> None:
    """Check `train.label_every`.

    Raises ConfigError: it is neither a length nor a list of lengths.
    """
    lengths = _as_list(label_every)
    for length in lengths:
        number = isinstance(length, int | float) and not isinstance(length, bool)
        if not number or not (1e-3 <= length < 1 or (length >= 1 and length % 1 == 0)):
            lengths = []
    if not lengths:
        raise ConfigError(
            f"{where}train.label_every={label_every} must be a whole number of epochs, a share of "
            "them (0.001 to 1), or a list of these.",
            "For example train.label_every=1, or train.label_every=[20,2].",
        )


def _as_list(label_every: object) -> Sequence[int | float]:
    if isinstance(label_every, Sequence) and not isinstance(label_every, str):
        return label_every
    return [label_every]  # type: ignore[list-item]


def tested_epochs(warmup: int, epochs: int, every: int) -> list[int]:
    """The epochs after which a stage is tested: every `every`, after warm-up, and the last."""
    regular = [epoch for epoch in range(epochs) if (epoch + 1) % every == 0]
    last = [] if epochs - 1 in regular else [epochs - 1]
    return [*([-1] if warmup else []), *regular, *last]
