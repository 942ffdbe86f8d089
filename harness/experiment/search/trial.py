"""A trial: a cell (one a seed) in the study's own store, looked at epoch by epoch.

Killed, it is taken up by whoever retries it, from the cell's checkpoint.
"""

from __future__ import annotations

import gc
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from optuna import Study, TrialPruned
from optuna import Trial as Suggested
from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import ConfigError, DataError, HarnessError, TrainingError, first_line
from harness.core.progress import QUIET_SECONDS, Reporter, epoch_line
from harness.evaluation.label_free import Reference
from harness.experiment.recipe import Recipe
from harness.experiment.run import run_experiment
from harness.experiment.search.check import Compose
from harness.experiment.search.held_out import hold_out
from harness.experiment.search.settings import Settings
from harness.experiment.search.space import Space
from harness.experiment.search.storage import GRACE, original
from harness.experiment.search.trial_statistics import counted, reason, seconds_of
from harness.results.store import Run

Row = Mapping[str, Any]
#: what settings may well lead to; anything else, time and again, is a broken machine or a bug
EXPECTED = (TrainingError, ConfigError, torch.OutOfMemoryError)


class Failed(Exception):
    """A trial that came to nothing, with the reason; the search goes on."""


class SpentError(HarnessError):
    """The device time of the study is used up."""


def trial_config(config: DictConfig, settings: Settings, reference: Reference) -> DictConfig:
    """A trial's cell: as the criterion has it, in the study's store, without a name yet."""
    config = config.copy()
    OmegaConf.set_struct(config, False)
    config.store, config.force, config.selection = str(settings.place / "trials"), False, "last"
    config.evaluation.every = settings.every
    config.evaluation.label_free = None
    if settings.criterion == "last_val":
        config = hold_out(config, settings.held_out, settings.split_seed)
    elif settings.criterion == "label_free":
        config = hold_out(config, 0, settings.split_seed)
        config.evaluation.label_free = [settings.label_free]
        config.evaluation.reference = vars(reference)
    return config


def epochs_of(recipe: Recipe) -> int:
    """All epochs of a cell, warm-up included."""
    trains = [stage.config.train for stage in recipe.stages]
    return sum(int(t.epochs) + int(t.warmup_epochs) for t in trains)


def step_of(row: Row, recipe: Recipe) -> int:
    """The number of an epoch among all of a cell's, from 0."""
    before = 0
    for stage in recipe.stages:
        warmup = int(stage.config.train.warmup_epochs)
        if stage.name == row["stage"]:
            return before + warmup + int(row["epoch"])
        before += warmup + int(stage.config.train.epochs)
    raise KeyError(row["stage"])


class TrialReporter(Reporter):
    """Shows a trial's phases, keeps its lines in a file, and has each epoch watched."""

    def __init__(self, what: str, log: Path, watch: Callable[[Row], None]) -> None:
        super().__init__()
        self.what, self.log, self.watch = what, log, watch
        self._shown = time.monotonic()

    def say(self, text: str) -> None:
        """Into the trial's log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def show(self, text: str) -> None:
        """To whoever looks."""
        super().say(text)

    def epoch(self, row: Row) -> None:
        """A finished epoch."""
        self.say(epoch_line(row))
        if not self.live and time.monotonic() - self._shown > QUIET_SECONDS:
            self._shown = time.monotonic()
            self.show(f"  {self.what}: {epoch_line(row)}")
        self.watch(row)

    def phase(self, name: str) -> Callable[[int, int], None]:
        """As ever, after the trial's number."""
        return super().phase(f"{self.what}  {name}")

    def _advance(self, done: int, total: int, note: str = "") -> None:
        if self._bar is not None:
            super()._advance(done, total, note)


class Objective:
    """What Optuna calls for each trial.

    Args:
        compose: values → the configuration with them. recipe: of the default configuration, for
            the order of epochs.
    """

    def __init__(
        self,
        study: Study,
        settings: Settings,
        space: Space,
        compose: Compose,
        recipe: Recipe,
        reference: Reference,
        sweep: Callable[[], None],
    ) -> None:
        self.study, self.settings, self.space = study, settings, space
        self.compose, self.recipe, self.reference = compose, recipe, reference
        self.sweep = sweep
        #: the id of the trial at work, or of the last one
        self.current: int | None = None

    def __call__(self, trial: Suggested) -> float | tuple[float, float]:
        """Run the trial's cell.

        Raises:
            TrialPruned: it is hopeless. Failed: it came to nothing. SpentError: the device time is
                used up. DataError: what no other trial would mend.
        """
        self.current = trial._trial_id
        frozen = self.study._storage.get_trial(trial._trial_id)
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        values = self.space.draw(trial)
        ahead = [t for t in counted(self._trials()) if t.number < trial.number]
        if len(ahead) >= self.settings.trials:
            trial.set_user_attr("surplus", True)
            raise Failed("others have taken the last trials")
        if (before := self._same(trial, ahead)) is not None:
            return self._repeat(trial, before)
        started = time.monotonic() - float(frozen.user_attrs.get("seconds", 0))
        first = f"trial-{original(frozen):04d}"
        names = [first, *(f"{first}-{k}" for k in range(1, self.settings.seeds))]
        runs = [Run(self.settings.place / "trials" / name) for name in names]
        try:
            config = trial_config(self.compose(values), self.settings, self.reference)
            for place, run in enumerate(runs):
                runs[place] = self._cell(trial, config, run, runs[:place], started)
        except TrialPruned:
            self._clear(runs)
            raise
        except (DataError, SpentError):
            raise
        except Exception as error:
            self._clear(runs)
            trial.set_user_attr("expected", isinstance(error, EXPECTED))
            trial.set_user_attr("reason", why := _why(error))
            raise Failed(why) from None  # let go of the frames, and of the memory that they hold
        finally:
            self._spend(trial, started)
            if torch.cuda.is_available():
                gc.collect()
                torch.cuda.empty_cache()
        if not self.settings.keep_networks:
            self._clear(runs)
        return self._values(trial, runs)

    def _cell(
        self, trial: Suggested, config: DictConfig, run: Run, before: list[Run], started: float
    ) -> Run:
        """One of a trial's cells: the same settings as those before it, the next seed."""
        config = config.copy()
        config.name, config.seed = run.name, int(config.seed) + len(before)
        ended = [self._last(other) for other in before]

        def watch(row: Row) -> None:
            self._watch(trial, row, ended, started)

        of_several = f", seed {config.seed}" if self.settings.seeds > 1 else ""
        self._wait_for(run)
        what = f"trial {trial.number}{of_several}"
        return run_experiment(config, TrialReporter(what, run.folder / "log.txt", watch))

    def _last(self, run: Run) -> float:
        """The criterion after the last epoch of a finished cell."""
        return float(run.history()[-1][self.settings.column])

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _values(self, trial: Suggested, runs: list[Run]) -> float | tuple[float, float]:
        value = sum(map(self._last, runs)) / len(runs)
        trial.set_user_attr("metrics", [run.record["metrics"] for run in runs])
        if not math.isfinite(value):
            trial.set_user_attr("reason", why := "the criterion is not a number")
            raise Failed(why)
        if self.settings.against is None:
            return value
        others = {
            "images_per_second": [
                list(run.record["stages"].values())[-1]["images_per_second"] for run in runs
            ],
            "hours": [run.record["seconds"] / 3600 for run in runs],
        }[self.settings.against]
        return value, float(sum(others) / len(runs))

    def _watch(self, trial: Suggested, row: Row, ended: list[float], started: float) -> None:
        """After each epoch: tell Optuna, and stop if there is no hope or no time.

        Args:
            ended: the criterion of the trial's earlier cells. What is told is the mean with them.
        """
        self._spend(trial, started)
        value = row.get(self.settings.column)
        if self.settings.against is None and value is not None:
            frozen = self.study._storage.get_trial(trial._trial_id)
            if frozen.state.is_finished():  # while this machine slept
                raise Failed("another worker has taken this trial for dead")
            step = len(ended) * epochs_of(self.recipe) + step_of(row, self.recipe)
            if step not in frozen.intermediate_values:
                trial.report((sum(ended) + float(value)) / (len(ended) + 1), step)
            if "default" not in frozen.user_attrs and trial.should_prune():
                raise TrialPruned(f"after {row['stage']} {row['epoch']}")
        if self.settings.hours is not None:
            spent = seconds_of(counted(self._trials()))
            if spent >= self.settings.hours * 3600:
                raise SpentError(f"search.hours={self.settings.hours:g} are used up.")

    def _spend(self, trial: Suggested, started: float) -> None:
        trial.set_user_attr("seconds", round(time.monotonic() - started, 2))

    def _same(self, trial: Suggested, ahead: list[FrozenTrial]) -> FrozenTrial | None:
        """An earlier trial of the same values, finished: nothing else would come out again."""
        for other in ahead:
            if other.params != trial.params:
                continue
            while other.state == TrialState.RUNNING:
                time.sleep(min(self.settings.heartbeat, 2))
                self.sweep()
                other = self.study._storage.get_trial(other._trial_id)
            numbers = [t.number for t in counted(self._trials())]
            if other.number in numbers and other.state.is_finished():
                return other
        return None

    def _repeat(self, trial: Suggested, other: FrozenTrial) -> float | tuple[float, float]:
        trial.set_user_attr("same_as", other.number)
        trial.set_user_attr("seconds", 0.0)
        if other.state == TrialState.FAIL:
            trial.set_user_attr("reason", why := f"as trial {other.number}: {reason(other)}")
            raise Failed(why)
        if other.state == TrialState.PRUNED:
            if other.last_step is not None:
                trial.report(other.intermediate_values[other.last_step], other.last_step)
            raise TrialPruned(f"as trial {other.number}")
        trial.set_user_attr("metrics", other.user_attrs.get("metrics", {}))
        return other.values[0] if len(other.values) == 1 else tuple(other.values)

    def _wait_for(self, run: Run) -> None:
        """Until nobody works in the cell's folder: a worker taken for dead may only have slept.

        Raises:
            HarnessError: it does not end.
        """
        if run.folder.is_dir():
            try:
                with FileLock(run.folder / ".lock", timeout=10 * GRACE * self.settings.heartbeat):
                    pass
            except Timeout as error:
                raise HarnessError(f"another process holds {run.name}") from error

    @staticmethod
    def _clear(runs: list[Run]) -> None:
        """Remove networks and checkpoints."""
        for run in runs:
            for path in run.folder.glob("*.pt"):
                path.unlink(missing_ok=True)


def _why(error: Exception) -> str:
    """A trial's reason in one line."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    if isinstance(error, RuntimeError) and "not enough memory" in str(error):
        return "out of memory"  # torch on the CPU
    if isinstance(error, HarnessError):
        return error.cause
    if isinstance(error, Failed):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"
