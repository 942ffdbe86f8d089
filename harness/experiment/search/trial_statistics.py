"""Which trials of a study count, what they took, and why some failed."""

from __future__ import annotations

from optuna.trial import FrozenTrial


def counted(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Those that are part of the search: none that another goes on with, none too many."""
    gone = {n for t in trials for n in t.system_attrs.get("retry_history", [])}
    gone |= {n for t in trials for n in t.user_attrs.get("interrupted", [])}
    return [t for t in trials if t.number not in gone and "surplus" not in t.user_attrs]


def seconds_of(trials: list[FrozenTrial]) -> float:
    """Device time of trials."""
    return sum(float(t.user_attrs.get("seconds", 0)) for t in trials)


def reason(trial: FrozenTrial) -> str:
    """Why a trial failed."""
    return str(trial.user_attrs.get("reason", "its worker died, time and again"))
