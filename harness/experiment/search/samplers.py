"""Optuna's samplers and pruners, as options name them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from optuna import Study, samplers
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    SuccessiveHalvingPruner,
)
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import ConfigError
from harness.core.seeds import derive
from harness.experiment.search.settings import Settings


def make_sampler(settings: Settings) -> BaseSampler:
    """The sampler, seeded trial by trial.

    Raises:
        ConfigError: its package is not installed.
    """
    if settings.sampler == "cmaes" and find_spec("cmaes") is None:
        raise ConfigError(
            "search.sampler=cmaes needs the package cmaes.",
            'Install it: pip install "usl-reid-harness[search]".',
        )
    return Seeded(settings.sampler, settings.seed)


def _plain(kind: str, seed: int) -> BaseSampler:
    seed %= 2**32  # as numpy takes them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        if kind == "tpe":
            # workers know of each other's running trials, and do not try the same again
            return samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
        if kind == "cmaes":
            return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
        if kind == "gp":
            return samplers.GPSampler(seed=seed)
        if kind == "grid":  # every combination once, conditions included
            return samplers.BruteForceSampler(seed=seed)
        return samplers.RandomSampler(seed=seed)


class Seeded(BaseSampler):
    """A sampler that begins anew with each trial, seeded by the trial's number.

    So a study that is resumed, and one that several workers share, draws for trial n what the
    finished trials and n imply; two workers of one seed never draw the same twice.
    """

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.seed = kind, seed
        self.inner = _plain(kind, seed)

    def reseed_rng(self) -> None:
        """Optuna does so in threads; a trial's number is enough."""

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Take the trial's own seed."""
        self.inner = _plain(self.kind, derive(self.seed, "sampler", trial.number))
        self.inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """As the sampler does. Called before `before_trial` by some versions of Optuna."""
        return self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler does."""
        return self.inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As the sampler does."""
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """As the sampler does."""
        self.inner.after_trial(study, trial, state, values)


def make_pruner(kind: str, steps: int) -> BasePruner:
    """The pruner.

    Args:
        steps: how often a trial looks at its criterion.
    """
    if kind == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, steps // 4))
    if kind == "hyperband":
        return HyperbandPruner(min_resource=max(1, steps // 9), max_resource=steps)
    if kind == "halving":
        return SuccessiveHalvingPruner(min_resource=max(1, steps // 4), reduction_factor=2)
    return NopPruner()
