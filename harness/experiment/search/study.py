"""The study that workers share: opened, compared with what is asked for, and worked at."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import optuna
from filelock import FileLock
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.core.errors import ConfigError, DataError, HarnessError
from harness.core.files import make_folder
from harness.core.progress import duration
from harness.experiment.search.samplers import make_pruner, make_sampler
from harness.experiment.search.settings import Settings
from harness.experiment.search.space import Space, Values
from harness.experiment.search.storage import GRACE, open_storage, original, retry
from harness.experiment.search.trial import Failed, Objective, SpentError
from harness.experiment.search.trial_statistics import counted, reason, seconds_of

IDENTITY = "harness"
#: seconds after which a running trial without any heartbeat is taken for one that never began
NEVER_BEGUN = 600.0
Say = Callable[[str], None]


def open_study(
    settings: Settings,
    identity: Mapping[str, Any],
    space: Space,
    first: Values | None,
    steps: int,
) -> Study:
    """The study of this name, made if it is not there.

    Args:
        identity: what may not change while a study lasts. first: the values of the first trial.
        steps: how often a trial looks at its criterion.

    Raises:
        ConfigError: the storage cannot be used, or the study is another one.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = make_sampler(settings)
    make_folder(settings.place)
    with FileLock(settings.place / ".opening.lock"):
        storage = open_storage(settings)  # two workers must not lay out its tables at once
        study = optuna.create_study(
            storage=storage,
            sampler=sampler,
            pruner=make_pruner(settings.pruner, steps),
            study_name=settings.name,
            directions=settings.directions,
            load_if_exists=True,
        )
        wanted = json.loads(json.dumps(identity, default=str))
        found = study.user_attrs.get(IDENTITY)
        if found is None:
            if study.get_trials(deepcopy=False):
                raise ConfigError(f"The study '{settings.name}' was not made by harness search.",
                                  "Choose another search.name.")  # fmt: skip
            study.set_user_attr(IDENTITY, wanted)
        elif found != wanted:
            raise _another(settings, found, wanted)
        if first is not None and not study.get_trials(deepcopy=False):
            study.enqueue_trial(space.encode(first), user_attrs={"default": True})
    return study


def _another(
    settings: Settings, found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> ConfigError:
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    told = []
    for key in differing:
        old, new = found.get(key), wanted[key]
        if isinstance(old, dict) and isinstance(new, dict):
            inner = [k for k in {**old, **new} if old.get(k) != new.get(k)]
            told += [f"{key} of {k}: {_said(old.get(k))}, not {_said(new.get(k))}" for k in inner]
        else:
            told.append(f"{key}: {_said(old)}, not {_said(new)}")
    more = f" and {len(told) - 3} more" if len(told) > 3 else ""
    return ConfigError(
        f"The study '{settings.name}' in {settings.place} is another one ({'; '.join(told[:3])}"
        f"{more}).",
        "Give it as it was, or choose another search.name.",
    )


def _said(value: Any) -> str:
    return "none" if value is None else json.dumps(value) if isinstance(value, dict) else str(value)


def sweep(study: Study, settings: Settings) -> None:
    """Put back the trials of workers that died."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    again = retry(settings.retries)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if never_begun(trial, settings):
            try:
                study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            except RuntimeError:  # finished: another worker was quicker
                continue
            again(study, study._storage.get_trial(trial._trial_id))


def never_begun(trial: FrozenTrial, settings: Settings) -> bool:
    """Whether its worker died before the first heartbeat, which no storage can tell."""
    if trial.state != TrialState.RUNNING or "worker" in trial.user_attrs:
        return False
    if trial.datetime_start is None:
        return False
    age = datetime.now(trial.datetime_start.tzinfo) - trial.datetime_start
    return age.total_seconds() > max(NEVER_BEGUN, GRACE * settings.heartbeat)


def put_back(study: Study, trial_id: int | None) -> None:
    """Let a trial that was stopped wait for whoever goes on with it."""
    if trial_id is None:
        return
    trial = study._storage.get_trial(trial_id)
    if trial.state != TrialState.FAIL or "reason" in trial.user_attrs:
        return
    stopped = [*trial.user_attrs.get("interrupted", []), trial.number]
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=trial.user_attrs | {"interrupted": stopped},
            system_attrs=trial.system_attrs | {"failed_trial": original(trial)},
            intermediate_values=trial.intermediate_values,
        )
    )


def work(study: Study, settings: Settings, objective: Objective, say: Say) -> None:
    """Run trials until the study has as many as it should, or its time is used up.

    Any number of processes may do so at once. When others are at the last trials this waits: one of
    them may die.

    Raises:
        HarnessError: trial after trial fails, or the data are missing. KeyboardInterrupt: stopped;
            the trial at work waits for the next worker.
    """
    waited = False
    while True:
        sweep(study, settings)
        trials = counted(study.get_trials(deepcopy=False))
        done = [t for t in trials if t.state.is_finished()]
        if len(done) >= settings.trials or _spent(trials, settings):
            return
        _check_failures(done, settings)
        running = [t for t in trials if t.state == TrialState.RUNNING]
        waiting = any(t.state == TrialState.WAITING for t in trials)
        if len(done) + len(running) >= settings.trials and not waiting:
            if not waited:
                say(f"other workers are at the last {len(running)} trials: waiting for them")
                waited = True
            time.sleep(min(settings.heartbeat, 5))
            continue
        waited = False
        objective.current = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                study.optimize(objective, n_trials=1, catch=(Failed,))
        except (KeyboardInterrupt, DataError):
            put_back(study, objective.current)
            raise
        except SpentError as error:
            put_back(study, objective.current)
            say(str(error.cause))
            continue
        except (RuntimeError, ValueError) as error:  # a finished trial takes no more
            if not _taken(study, objective.current):
                raise
            say(f"a trial was taken over by another worker meanwhile ({error})")
            continue
        if (line := _line(study, settings, objective)) is not None:
            say(line)


def _taken(study: Study, trial_id: int | None) -> bool:
    """Whether a trial is over, though this worker has not told."""
    return trial_id is not None and study._storage.get_trial(trial_id).state.is_finished()


def _spent(trials: list[FrozenTrial], settings: Settings) -> bool:
    return settings.hours is not None and seconds_of(trials) >= settings.hours * 3600


def _check_failures(done: list[FrozenTrial], settings: Settings) -> None:
    """Give up where nothing ever succeeds, or trials fail by what is not their settings' fault."""
    last = sorted(done, key=lambda t: t.number)[-settings.failures :]
    if len(last) < settings.failures or any(t.state != TrialState.FAIL for t in last):
        return
    never = all(t.state == TrialState.FAIL for t in done)
    if never or not any(t.user_attrs.get("expected") for t in last):
        causes = dict.fromkeys(reason(t) for t in last)
        raise HarnessError(
            f"The last {settings.failures} trials failed: {'; '.join(causes)}.",
            f"Their logs are under {settings.place / 'trials'}. Mend the space (another "
            "search.name) or the machine; the same command goes on, with search.failures=N after "
            "more of them.",
        )


def best_of(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The best by the criterion, the earliest of equals; None where none is complete."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    return max(complete, key=lambda t: (t.values[0], -t.number)) if complete else None


def _line(study: Study, settings: Settings, objective: Objective) -> str | None:
    """What a person wants to know of a trial that has ended; None of one too many."""
    if objective.current is None:
        return None
    trials = counted(study.get_trials(deepcopy=False))
    trial = study._storage.get_trial(objective.current)
    if trial.number not in [t.number for t in trials]:
        return None
    done = sum(t.state.is_finished() for t in trials)
    words = {
        TrialState.COMPLETE: lambda: "  ".join(f"{v:.4g}" for v in trial.values),
        TrialState.PRUNED: lambda: (
            f"pruned at {trial.intermediate_values[trial.last_step]:.1f}"
            if trial.last_step is not None
            else "pruned"
        ),
        TrialState.FAIL: lambda: f"failed: {reason(trial)}",
    }[trial.state]()
    if "same_as" in trial.user_attrs and trial.state == TrialState.COMPLETE:
        words += f" (the same as trial {trial.user_attrs['same_as']})"
    best = best_of(trials)
    parts = [f"trial {trial.number} ({done}/{settings.trials})", words]
    if best is not None:
        parts.append(f"best {best.values[0]:.4g} (trial {best.number})")
    short = shortened(list(trial.params))
    values = ", ".join(f"{short[key]} {_short(v)}" for key, v in trial.params.items())
    parts.append(f"default: {values}" if "default" in trial.user_attrs else values)
    seconds = seconds_of(trials)
    if done < settings.trials and done:
        workers = max(1, sum(t.state == TrialState.RUNNING for t in trials) + 1)
        left = seconds / done * (settings.trials - done) / workers
        if settings.hours is not None:
            left = min(left, max(0.0, settings.hours * 3600 - seconds) / workers)
        parts.append(f"search ends in about {duration(left)}")
    return "  ".join(parts)


def shortened(keys: list[str]) -> dict[str, str]:
    """Dotted keys by their last part, where it tells them apart."""
    last = [key.rsplit(".", 1)[-1] for key in keys]
    return {key: end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)}


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
