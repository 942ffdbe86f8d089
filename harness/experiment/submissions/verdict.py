"""What a check finds, and the verdict on a submission."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["ok", "FAILED", "unknown"]
#: differences that a reason names; the others are counted
MOST_NAMED = 8


@dataclass(frozen=True)
class Found:
    """The outcome of a check, and why, in words."""

    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Check:
    """run: its name, or "" for the submission as a whole. name: of the check."""

    run: str
    name: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """All checks of a submission."""

    submission: str
    checks: tuple[Check, ...]

    @property
    def passes(self) -> bool:
        """Whether no check failed. What cannot be checked here is unknown, and no failure."""
        return not any(check.outcome == "FAILED" for check in self.checks)

    def __str__(self) -> str:
        failed = sum(check.outcome == "FAILED" for check in self.checks)
        unknown = sum(check.outcome == "unknown" for check in self.checks)
        if failed:
            return f"{self.submission}: FAILED, {failed} of {len(self.checks)} checks"
        left = f"; {unknown} could not be made here" if unknown else ""
        return f"{self.submission}: passes {len(self.checks) - unknown} checks{left}"


def ok(reason: str = "") -> Found:
    return Found("ok", reason)


def unknown(reason: str) -> Found:
    return Found("unknown", reason)


def failed(reasons: str | Iterable[str]) -> Found:
    """A failure, with all its reasons up to `MOST_NAMED`."""
    lines = [reasons] if isinstance(reasons, str) else list(reasons)
    more = [f"and {len(lines) - MOST_NAMED} more"] if len(lines) > MOST_NAMED else []
    return Found("FAILED", "; ".join([*lines[:MOST_NAMED], *more]))


def failed_or(problems: Iterable[str], otherwise: Found) -> Found:
    """A failure if there are problems."""
    lines = list(problems)
    return failed(lines) if lines else otherwise
