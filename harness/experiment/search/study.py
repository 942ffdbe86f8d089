"""The Optuna study that workers share: opening it, its trials, and signs of life of their workers.

A trial whose worker died or was stopped is added again as a waiting trial, which resumes from the
checkpoint of the first attempt. Workers write the time into their running trial; this works alike
in every storage.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from filelock import FileLock
from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.core.errors import ConfigError
from harness.core.files import make_folder
from harness.experiment.search.plan import Plan, epochs_of
from harness.experiment.search.samplers import make_pruner, make_sampler
from harness.experiment.search.storage import open_storage

IDENTITY = "harness"
#: heartbeats that a worker may miss
MISSED = 3


def open_study(plan: Plan) -> Study:
    """Open the study of this name, creating it if needed, with the default as its first trial.

    Raises:
        ConfigError: the storage cannot be used, or the study belongs to another search.
    """
    settings = plan.settings
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = make_sampler(settings)
    pruner = make_pruner(settings.pruner, settings.seeds * len(epochs_of(plan.recipe)))
    make_folder(settings.place)
    with FileLock(settings.place / ".opening.lock"):  # one worker creates the tables
        study = optuna.create_study(
            storage=open_storage(settings),
            sampler=sampler,
            pruner=pruner,
            study_name=settings.name,
            directions=settings.directions,
            load_if_exists=True,
        )
        _check_identity(study, plan)
        if plan.defaults is not None and not study.get_trials(deepcopy=False):
            study.enqueue_trial(plan.defaults, user_attrs={"default": True})
    return study


def _check_identity(study: Study, plan: Plan) -> None:
    settings = plan.settings
    wanted = json.loads(json.dumps(plan.identity, default=str))
    found = study.user_attrs.get(IDENTITY)
    if found is None:
        if study.get_trials(deepcopy=False):
            raise ConfigError(
                f"The study '{settings.name}' was not created by harness search.",
                "Choose another search.name.",
            )
        study.set_user_attr(IDENTITY, wanted)
    elif found != wanted:
        changes = [f"{key}: {found.get(key)}, not {wanted.get(key)}"
                   for key in {**found, **wanted} if found.get(key) != wanted.get(key)]  # fmt: skip
        more = f"; and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise ConfigError(
            f"The study '{settings.name}' in {settings.place} belongs to another search "
            f"({'; '.join(changes[:3])}{more}).",
            "Give the same options as before, or choose another search.name.",
        )


# ---------------------------------------------------------------------------------------- trials


def counted(study: Study) -> list[FrozenTrial]:
    """The trials that count: neither resumed by a later one nor beyond the number asked for."""
    trials = study.get_trials(deepcopy=False)
    resumed = {n for t in trials for n in t.user_attrs.get("resumes", [])}
    return [t for t in trials if t.number not in resumed and "surplus" not in t.user_attrs]


def finished(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that are complete, pruned or failed."""
    return [t for t in trials if t.state.is_finished()]


def seconds_of(trials: list[FrozenTrial]) -> float:
    """Device time of trials."""
    return sum(float(t.user_attrs.get("seconds", 0)) for t in trials)


def reason(trial: FrozenTrial) -> str:
    """Why a trial failed."""
    return str(trial.user_attrs.get("reason", "its worker died repeatedly"))


def best_of(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The best complete trial by the criterion, the earliest of equal ones."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    return max(complete, key=lambda t: (t.values[0], -t.number)) if complete else None


# --------------------------------------------------------------------------------------- workers


@contextmanager
def heartbeat(trial: Trial, seconds: int) -> Iterator[None]:
    """Write the time into a running trial every few seconds."""
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(seconds):
            try:
                trial.set_user_attr("alive", time.time())
            except UpdateFinishedTrialError:  # another worker considers this one dead
                return

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
        if time.time() - alive <= MISSED * plan.settings.heartbeat:
            continue
        try:
            study.tell(trial.number, state=TrialState.FAIL)
        except (UpdateFinishedTrialError, ValueError):  # another worker did
            continue
        deaths = trial.user_attrs.get("deaths", 0) + 1
        if deaths <= plan.settings.retries:
            requeue(study, trial.number, deaths)


def requeue(study: Study, number: int, deaths: int | None = None) -> None:
    """Add a stopped trial again, to be resumed from its checkpoint."""
    trial = study.get_trials(deepcopy=False)[number]
    attributes = trial.user_attrs | {"resumes": [*trial.user_attrs.get("resumes", []), number]}
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs=attributes | ({} if deaths is None else {"deaths": deaths}),
            system_attrs=trial.system_attrs,
            intermediate_values=trial.intermediate_values,
        )
    )
