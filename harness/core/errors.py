"""One exception for everything that a person can mend: it names the cause and the hint."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Bad input, told in two parts: what is wrong (`cause`) and what to do about it (`hint`).

    The command line prints both without a traceback and exits with status 2 (1 for a run that
    had started); as a library exception its text holds both.
    """

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(f"{cause}\n  {hint}" if hint else cause)
        self.cause = cause
        self.hint = hint

    def __reduce__(self) -> tuple[type[HarnessError], tuple[str, str]]:
        return type(self), (self.cause, self.hint)  # to another process, in both parts


class ConfigError(HarnessError):
    """A configuration that cannot be run. Raised when it is composed, before any work is done."""


class DataError(HarnessError):
    """A data set that is missing, incomplete or damaged."""


class TrainingError(HarnessError):
    """Training cannot go on (no clusters, a loss that is not finite). The last checkpoint stays."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that offers the nearest of `known` to a misspelt `word`, or lists them all."""
    options = sorted(set(known))
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"Did you mean '{near[0]}'?"
    return f"Known: {', '.join(options)}." if options else ""
