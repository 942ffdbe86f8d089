"""Optuna's samplers and pruners by the names that options give them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from optuna import Study, pruners, samplers
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial

from harness.core.errors import ConfigError
from harness.core.seeds import derive
from harness.experiment.search.settings import Settings

SAMPLERS: dict[str, Callable[[int], samplers.BaseSampler]] = {
    # constant_liar keeps workers from trying what another one is running
    "tpe": lambda seed: samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True
    ),
    "cmaes": lambda seed: samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "gp": lambda seed: samplers.GPSampler(seed=seed),
    "random": lambda seed: samplers.RandomSampler(seed=seed),
    # each combination once; unlike GridSampler it supports conditions
    "grid": lambda seed: samplers.BruteForceSampler(seed=seed),
}


def make_sampler(settings: Settings) -> samplers.BaseSampler:
    """The sampler of `search.sampler`.

    Raises:
        ConfigError: its package is not installed.
    """
    if settings.sampler == "cmaes" and find_spec("cmaes") is None:
        raise ConfigError(
            "search.sampler=cmaes needs the package cmaes.",
            'Install it: pip install "usl-reid-harness[search]".',
        )
    return SeededByTrial(settings.sampler, settings.seed)


class SeededByTrial(samplers.BaseSampler):
    """An Optuna sampler that is created anew for each trial, seeded by the trial's number.

    The values of a trial then depend only on the seed, its number and the trials finished before:
    a resumed study continues as if it had not stopped, and workers never draw the same values.
    """

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed
        self.sampler = self._seeded(0)

    def _seeded(self, number: int) -> samplers.BaseSampler:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return SAMPLERS[self.kind](derive(self.seed, "sampler", number) % 2**32)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.sampler = self._seeded(trial.number)
        self.sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution
    ) -> Any:
        return self.sampler.sample_independent(study, trial, name, distribution)


def make_pruner(kind: str, steps: int) -> pruners.BasePruner:
    """The pruner of `search.pruner`.

    Args:
        steps: epochs of a trial.
    """
    if kind == "median":
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, steps // 4))
    if kind == "hyperband":
        return pruners.HyperbandPruner(min_resource=max(1, steps // 9), max_resource=steps)
    if kind == "halving":
        return pruners.SuccessiveHalvingPruner(min_resource=max(1, steps // 4), reduction_factor=2)
    return pruners.NopPruner()
