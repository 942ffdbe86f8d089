"""The Optuna study that workers share: its storage, sampler, pruner and trials."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import optuna
from filelock import FileLock
from optuna import Study, pruners, samplers
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import ConfigError, first_line
from harness.core.files import make_folder
from harness.core.seeds import derive
from harness.experiment.search.plan import Plan, epochs_of
from harness.experiment.search.settings import Settings

IDENTITY = "harness"
SAMPLERS: dict[str, Callable[..., samplers.BaseSampler]] = {
    # constant_liar keeps workers from trying what another one is running
    "tpe": partial(samplers.TPESampler, multivariate=True, group=True, constant_liar=True),
    "cmaes": partial(samplers.CmaEsSampler, warn_independent_sampling=False),
    "gp": samplers.GPSampler,
    "random": samplers.RandomSampler,
    # each combination once; unlike GridSampler it supports conditions
    "grid": samplers.BruteForceSampler,
}
#: by the number of epochs of a trial
PRUNERS: dict[str, Callable[[int], pruners.BasePruner]] = {
    "none": lambda epochs: pruners.NopPruner(),
    "median": lambda epochs: pruners.MedianPruner(5, max(1, epochs // 4)),
    "hyperband": lambda epochs: pruners.HyperbandPruner(max(1, epochs // 9), epochs),
    "halving": lambda epochs: pruners.SuccessiveHalvingPruner(max(1, epochs // 4), 2),
}


def open_study(plan: Plan) -> Study:
    """Open the study of this name, creating it if needed, with the default as its first trial.

    Raises:
        ConfigError: the storage or the sampler cannot be used, or another search has this name.
    """
    settings = plan.settings
    epochs = settings.seeds * len(epochs_of(plan.experiment.recipe))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if settings.sampler == "cmaes" and find_spec("cmaes") is None:
        raise ConfigError("search.sampler=cmaes needs the package cmaes.",
                          'Install it: pip install "usl-reid-harness[search]".')  # fmt: skip
    make_folder(settings.place)
    with FileLock(settings.place / ".opening.lock"):  # one worker creates the tables
        study = optuna.create_study(
            storage=open_storage(settings),
            sampler=SeededByTrial(settings.sampler, settings.seed),
            pruner=PRUNERS[settings.pruner](epochs),
            study_name=settings.name,
            directions=settings.directions,
            load_if_exists=True,
        )
        _check_identity(study, plan)
        if plan.defaults is not None and not study.get_trials(deepcopy=False):
            study.enqueue_trial(plan.defaults, user_attrs={"default": True})
    return study


def open_storage(settings: Settings) -> BaseStorage:
    """Open the study's storage, creating it if needed.

    Raises:
        ConfigError: it cannot be reached or read, or its driver is not installed.
    """
    url, engine = settings.storage, dict[str, Any](pool_pre_ping=True)
    if url == "journal":
        return JournalStorage(JournalFileBackend(str(settings.place / "study.journal")))
    if url == "sqlite":  # a worker waits up to 100 s while another one writes
        url = f"sqlite:///{(settings.place / 'study.db').absolute()}"
        engine = {"connect_args": {"timeout": 100}}
    scheme, _, rest = url.partition("://")
    shown = f"search.storage={scheme}://{rest.rpartition('@')[2]}"  # without user and password
    if scheme in ("postgresql", "postgres") and find_spec("psycopg") and not find_spec("psycopg2"):
        url = f"postgresql+psycopg://{rest}"
    try:
        return RDBStorage(url, engine_kwargs=engine)
    except ImportError as error:
        hint = 'Install the driver: pip install "usl-reid-harness[postgresql]".'
        raise ConfigError(f"{shown}: {first_line(error)}.", hint) from error
    except Exception as error:  # whatever the database's driver raises
        hint = "Check that the database exists and that you may write to it."
        raise ConfigError(f"{shown} cannot be used: {first_line(error)}", hint) from error


def _check_identity(study: Study, plan: Plan) -> None:
    settings = plan.settings
    wanted = json.loads(json.dumps(plan.identity, default=str))
    found = study.user_attrs.get(IDENTITY)
    if found is None:
        study.set_user_attr(IDENTITY, wanted)
    elif found != wanted:
        changes = [f"{key}: {found.get(key)}, not {wanted.get(key)}"
                   for key in {**found, **wanted} if found.get(key) != wanted.get(key)]  # fmt: skip
        raise ConfigError(
            f"{settings.place} belongs to another search ({'; '.join(changes)}).",
            "Give the same options as before, or choose another search.name.",
        )


class SeededByTrial(samplers.BaseSampler):
    """An Optuna sampler that is created anew for each trial, seeded by the trial's number.

    The values of a trial then depend only on the seed, its number and the trials finished before.
    """

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed
        self.sampler: samplers.BaseSampler = samplers.RandomSampler()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            seed = derive(self.seed, "sampler", trial.number) % 2**32
            self.sampler = SAMPLERS[self.kind](seed=seed)

    def infer_relative_search_space(self, *args: Any, **kwargs: Any) -> Any:
        return self.sampler.infer_relative_search_space(*args, **kwargs)

    def sample_relative(self, *args: Any, **kwargs: Any) -> Any:
        return self.sampler.sample_relative(*args, **kwargs)

    def sample_independent(self, *args: Any, **kwargs: Any) -> Any:
        return self.sampler.sample_independent(*args, **kwargs)


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
