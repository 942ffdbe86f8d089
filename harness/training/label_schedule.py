"""When labels are made (before every epoch, or once for several) and when tests are."""

from __future__ import annotations

from collections.abc import Sequence

from harness.core.errors import ConfigError

#: whole numbers are epochs, fractions below 1 are shares of a stage's epochs
Lengths = int | float | Sequence[int | float]


def labellings(label_every: Lengths, epochs: int) -> list[int]:
    """How often the labeler is asked before each of the epochs 0 … `epochs` − 1.

    Labels last for so many epochs; of a list the first number is how long the first labels last,
    and so on, the last number being that of all later ones. A fraction below 1 is a share of the
    epochs: [20, 2] and [20/56, 2/56] are the same in 56 epochs, and in half as many the second
    means 10 and 1. Ends are rounded to whole epochs. Where several labels would end within one
    epoch the labeler is asked as often, so that one that goes on from its last labels (BUC's) gets
    as far in a short training as in a long one.

    >>> labellings([3, 2], 6)
    [1, 0, 0, 1, 0, 1]
    >>> labellings([0.5, 0.125], 4)
    [1, 0, 2, 1]
    """
    lengths = list(_as_list(label_every))
    due, end, turn = [0] * epochs, 0.0, 0
    while round(end) < epochs:
        due[round(end)] += 1
        length = lengths[min(turn, len(lengths) - 1)]
        end += length * epochs if length < 1 else length
        turn += 1
    return due


def check_label_every(label_every: object, where: str = "") -> None:
    """Whether it is a length, or a list of lengths.

    Raises:
        ConfigError: it is not.
    """
    lengths = _as_list(label_every)
    for length in lengths:
        number = isinstance(length, int | float) and not isinstance(length, bool)
        if not number or not (1e-3 <= length < 1 or (length >= 1 and length % 1 == 0)):
            lengths = []
    if not lengths:
        raise ConfigError(
            f"{where}train.label_every={label_every} must be a whole number of epochs, a share of "
            "them (0.001 to 1), or a list of such.",
            "For example train.label_every=1, or train.label_every=[20,2].",
        )


def _as_list(label_every: object) -> Sequence[int | float]:
    if isinstance(label_every, Sequence) and not isinstance(label_every, str):
        return label_every
    return [label_every]  # type: ignore[list-item]


def tested_epochs(warmup: int, epochs: int, every: int) -> list[int]:
    """After which epochs the test set is looked at: every so many, after warm-up, at the end."""
    regular = [epoch for epoch in range(epochs) if (epoch + 1) % every == 0]
    ended = [] if epochs - 1 in regular else [epochs - 1]
    return [*([-1] if warmup else []), *regular, *ended]
