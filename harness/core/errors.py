"""Errors and notices for users. An error states its cause and a hint on how to fix it."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

_noticed: set[str] = set()
#: called with each notice: the log of a run holds them, too
listeners: list[Callable[[str], None]] = []


class HarnessError(Exception):
    """An error that the user can fix: what is wrong (`cause`) and what to do about it (`hint`).

    The command line prints both without a traceback and exits with status 2 (1 once a run has
    started).
    """

    #: the errors that this one combines
    several: tuple[HarnessError, ...] = ()

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(f"{cause}\n  {hint}" if hint else cause)
        self.cause = cause
        self.hint = hint

    def __reduce__(self) -> tuple[type[HarnessError], tuple[str, str]]:
        return type(self), (self.cause, self.hint)  # keep both parts when pickled


class ConfigError(HarnessError):
    """A configuration that cannot be run, raised before any work is done."""


class DataError(HarnessError):
    """A data set is missing, incomplete or damaged."""


class TrainingError(HarnessError):
    """Training cannot continue (no clusters, non-finite loss). The last checkpoint is kept."""


class Problems:
    """Collects errors, so that a user sees all of them at once."""

    def __init__(self) -> None:
        self.errors: list[HarnessError] = []

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Collect the error that ends the block, if one does."""
        try:
            yield
        except HarnessError as error:
            known = {_subject(one) for one in self.errors}
            self.errors += [one for one in error.several or (error,) if _subject(one) not in known]

    def check(self) -> None:
        """Raise the only error as it is, or several as one (a DataError unless all are
        ConfigErrors).
        """
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            lines = [f"  {n}. {error}" for n, error in enumerate(self.errors, start=1)]
            text = "\n".join(line.replace("\n  ", "\n     ") for line in lines)
            refused = all(isinstance(error, ConfigError) for error in self.errors)
            kind = ConfigError if refused else DataError
            combined = kind(f"There are {len(self.errors)} problems:\n{text}")
            combined.several = tuple(self.errors)
            raise combined


def _subject(error: HarnessError) -> str:
    """What an error is about: the option that its cause begins with (`seed=x must …`), or all."""
    word = error.cause.split(" ", 1)[0]
    return word if "=" in word else error.cause


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the exception's type if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that suggests the closest known word, or lists all of them."""
    options = sorted(set(known))
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Known: {', '.join(options)}." if options else ""


def say_once(text: str) -> None:
    """Print a notice to stderr, once per process and only on rank 0 under torchrun."""
    if text not in _noticed and os.environ.get("RANK", "0") == "0":
        _noticed.add(text)
        print(f"note: {text}", file=sys.stderr)
        for listener in listeners:
            listener(f"note: {text}")
