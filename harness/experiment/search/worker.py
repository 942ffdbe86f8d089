"""A worker: runs trials of a shared study, and resumes those whose worker died or was stopped.

Workers write the time into their running trial, in any storage. A trial without a recent time is
failed and added again; the new one resumes from the checkpoint of the first attempt.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from optuna import Study, Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.core.errors import DataError, HarnessError
from harness.core.progress import duration
from harness.experiment.search.plan import Plan
from harness.experiment.search.study import best_of, counted, finished, reason, seconds_of
from harness.experiment.search.trial import Failed, Objective, OutOfTimeError

Say = Callable[[str], None]
#: heartbeats that a worker may miss
MISSED = 3
#: what Optuna raises when a trial was finished by another worker
TAKEN = (UpdateFinishedTrialError, ValueError)


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
        waiting = sum(t.state == TrialState.WAITING for t in trials)
        if len(trials) >= plan.trials and not waiting:
            if not waits:
                say(f"waiting for the last {len(trials) - len(done)} trials of other workers")
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
            with suppress(*TAKEN):
                study.tell(trial, state=state)
                _requeue(study, trial.number)
            if not isinstance(error, OutOfTimeError):
                raise
            say(error.cause)
            return
        study.tell(trial, values, state)
    except TAKEN:
        if not study.get_trials(deepcopy=False)[trial.number].state.is_finished():
            raise
        say(f"trial {trial.number} was resumed by another worker, which considered this one dead")
        return
    if line := _progress(counted(study), trial.number, plan):
        say(line)


@contextmanager
def heartbeat(trial: Trial, seconds: int) -> Iterator[None]:
    """Write the time into a running trial every few seconds."""
    stopped = threading.Event()

    def beat() -> None:
        with suppress(UpdateFinishedTrialError):  # another worker considers this one dead
            while not stopped.wait(seconds):
                trial.set_user_attr("alive", time.time())

    trial.set_user_attr("alive", time.time())
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def requeue_abandoned(study: Study, plan: Plan) -> None:
    """Add the running trials of dead workers again, `search.retries` times at most."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        assert trial.datetime_start is not None
        alive = max(trial.datetime_start.timestamp(), trial.user_attrs.get("alive", 0))
        if time.time() - alive > MISSED * plan.settings.heartbeat:
            with suppress(*TAKEN):
                study.tell(trial.number, state=TrialState.FAIL)
                deaths = trial.user_attrs.get("deaths", 0) + 1
                if deaths <= plan.settings.retries:
                    _requeue(study, trial.number, deaths=deaths)


def _requeue(study: Study, number: int, **attributes: Any) -> None:
    """Add a stopped trial again, to be resumed from its checkpoint."""
    trial = study.get_trials(deepcopy=False)[number]
    attributes["resumes"] = [*trial.user_attrs.get("resumes", []), number]
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=trial.user_attrs | attributes,
            system_attrs=trial.system_attrs,
            intermediate_values=trial.intermediate_values,
        )
    )


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
    done, best = len(finished(trials)), best_of(trials)
    if trial.state == TrialState.COMPLETE:
        result = "  ".join(map(shown, trial.values))
        if "same_as" in trial.user_attrs:
            result += f" (the same as trial {trial.user_attrs['same_as']})"
    else:
        result = f"failed: {reason(trial)}" if trial.state == TrialState.FAIL else "pruned"
    drawn = ", ".join(f"{key.split('.')[-1]} {shown(v)}" for key, v in trial.params.items())
    parts = [
        f"trial {number} ({done}/{plan.trials})",
        result,
        "" if best is None else f"best {shown(best.values[0])} (trial {best.number})",
        f"default: {drawn}" if "default" in trial.user_attrs else drawn,
    ]
    if done < plan.trials:
        workers = sum(t.state == TrialState.RUNNING for t in trials) + 1
        left = seconds_of(trials) / done * (plan.trials - done) / workers
        parts.append(f"search ends in about {duration(left)}")
    return "  ".join(filter(None, parts))


def shown(value: Any) -> str:
    """A value with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
