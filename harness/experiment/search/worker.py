"""A worker: runs trials of a shared study until it is finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from optuna import Study, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import DataError, HarnessError
from harness.core.progress import duration
from harness.experiment.search.plan import Plan
from harness.experiment.search.study import (
    best_of,
    counted,
    finished,
    heartbeat,
    reason,
    requeue,
    requeue_abandoned,
    seconds_of,
)
from harness.experiment.search.trial import Failed, Objective, OutOfTimeError

Say = Callable[[str], None]


def work(study: Study, plan: Plan, say: Say) -> None:
    """Run trials until the study has all of them or its device-hours are used up.

    Any number of processes may do this at once. While others run the last trials this one waits,
    in case one of them dies.

    Raises:
        HarnessError: trial after trial fails, or the data are missing. KeyboardInterrupt: the
            worker was stopped; its trial waits for the next worker.
    """
    settings, waits = plan.settings, False
    objective = Objective(study, plan)
    while True:
        requeue_abandoned(study, plan)
        trials = counted(study)
        done = finished(trials)
        out_of_time = settings.hours is not None and seconds_of(trials) >= settings.hours * 3600
        if len(done) >= plan.trials or out_of_time:
            return
        _check_failures(done, plan)
        running = sum(t.state == TrialState.RUNNING for t in trials)
        if len(done) + running >= plan.trials and len(done) + running == len(trials):
            if not waits:
                say(f"waiting for other workers, which run the last {running} trials")
            waits = True
            time.sleep(min(settings.heartbeat, 5))
        else:
            waits = False
            _run_trial(study, plan, objective, say)


def _run_trial(study: Study, plan: Plan, objective: Objective, say: Say) -> None:
    """Run the next trial. One that was stopped is added again, to be resumed."""
    trial = study.ask()
    values: list[float] | None = None
    state = TrialState.FAIL
    try:
        try:
            with heartbeat(trial, plan.settings.heartbeat):
                values, state = objective(trial), TrialState.COMPLETE
        except TrialPruned:
            state = TrialState.PRUNED
        except Failed as error:
            trial.set_user_attr("reason", error.reason)
            trial.set_user_attr("expected", error.expected)
        except (KeyboardInterrupt, DataError, OutOfTimeError) as error:
            with suppress(UpdateFinishedTrialError, ValueError):  # already resumed
                study.tell(trial, state=TrialState.FAIL)
                requeue(study, trial.number)
            if not isinstance(error, OutOfTimeError):
                raise
            say(error.cause)
            return
        study.tell(trial, values, state)
    except (UpdateFinishedTrialError, ValueError):
        if not study.get_trials(deepcopy=False)[trial.number].state.is_finished():
            raise
        say(f"trial {trial.number} was resumed by another worker, which considered this one dead")
        return
    if line := _progress(counted(study), trial.number, plan):
        say(line)


def _check_failures(done: list[FrozenTrial], plan: Plan) -> None:
    """Stop if no trial ever succeeds, or if settings do not explain the failures."""
    limit = plan.settings.failures
    last = sorted(done, key=lambda t: t.number)[-limit:]
    if len(last) < limit or any(t.state != TrialState.FAIL for t in last):
        return
    never = all(t.state == TrialState.FAIL for t in done)
    if never or not any(t.user_attrs.get("expected") for t in last):
        raise HarnessError(
            f"The last {limit} trials failed: {'; '.join(dict.fromkeys(map(reason, last)))}.",
            f"Their logs are in {plan.settings.place / 'trials'}. Correct the space (with another "
            "search.name) or the machine. The same command continues; search.failures=N allows "
            "more failures.",
        )


def _progress(trials: list[FrozenTrial], number: int, plan: Plan) -> str | None:
    """One line about a trial that has ended, None if it does not count."""
    trial = next((t for t in trials if t.number == number), None)
    if trial is None:
        return None
    settings, done, best = plan.settings, len(finished(trials)), best_of(trials)
    if trial.state == TrialState.COMPLETE:
        result = "  ".join(f"{value:.4g}" for value in trial.values)
        same_as = trial.user_attrs.get("same_as")
        result += "" if same_as is None else f" (the same as trial {same_as})"
    else:
        result = f"failed: {reason(trial)}" if trial.state == TrialState.FAIL else "pruned"
    short = _last_parts(list(trial.params))
    drawn = ", ".join(f"{short[key]} {shown(value)}" for key, value in trial.params.items())
    parts = [f"trial {number} ({done}/{plan.trials})", result]
    if best is not None:
        parts.append(f"best {best.values[0]:.4g} (trial {best.number})")
    parts.append(f"default: {drawn}" if "default" in trial.user_attrs else drawn)
    if done < plan.trials:
        used, running = seconds_of(trials), sum(t.state == TrialState.RUNNING for t in trials)
        left = used / done * (plan.trials - done)
        if settings.hours is not None:
            left = min(left, max(0.0, settings.hours * 3600 - used))
        parts.append(f"search ends in about {duration(left / (running + 1))}")
    return "  ".join(parts)


def _last_parts(keys: list[str]) -> dict[str, str]:
    """Dotted key → its last part where that is unambiguous."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)}


def shown(value: Any) -> str:
    """A value with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
