"""What a command does where its cell has been run before: `overwrite=skip|only-missing|always`.

- `skip`: a finished cell is reported; an unfinished one goes on.
- `only-missing`: of a finished experiment, what its record or folder lacks is made, by its networks and
  without training: results by query, features that are to be kept (evaluation.keep_features),
  metrics that came later, curves (log=). A cell that differs from a finished one in `evaluation.`
  alone is made from that one's networks.
- `always`: the experiment starts afresh. `force=true` is the same.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from harness.core.distributed import processes
from harness.core.errors import ConfigError, did_you_mean
from harness.results.run_status import noting_failure

if TYPE_CHECKING:
    from harness.experiment.run import Experiment

STRATEGIES = ("skip", "only-missing", "always")


def strategy(config: DictConfig) -> str:
    """Which of the strategies holds.

    Raises:
        ConfigError: there is no such strategy, or several processes cannot carry it out.
    """
    chosen = str(config.get("overwrite", "skip"))
    if chosen not in STRATEGIES:
        raise ConfigError(f"overwrite={chosen} is unknown.", did_you_mean(chosen, STRATEGIES))
    if chosen == "only-missing" and processes.is_distributed():
        raise ConfigError(
            "overwrite=only-missing is for one process.", "Give the command without torchrun."
        )
    return "always" if config.force else chosen


def carry_out(experiment: Experiment, how: str) -> bool:
    """What a strategy asks of a experiment whose folder is locked. Returns whether anything was done."""
    if how == "only-missing":
        from harness.experiment.backfill import remade  # whose cells are made of `run`'s

        if list(remade(experiment.run, experiment)):
            return True
        if experiment.run.finished:
            return False
    noting = noting_failure(experiment.run, lambda: experiment.history)
    with noting if experiment.keeps else contextlib.nullcontext():
        experiment.run_all()
    return True
