"""A trial: one run for each seed in the study's own store, evaluated epoch by epoch."""

from __future__ import annotations

import gc
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from optuna import Study, Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import ConfigError, DataError, HarnessError, TrainingError, first_line
from harness.core.progress import QUIET_SECONDS, Reporter, epoch_line
from harness.experiment.recipe import make_recipe
from harness.experiment.run import run_experiment
from harness.experiment.search.plan import Plan, epochs_of
from harness.experiment.search.study import counted, finished, reason, seconds_of
from harness.results.store import Run

Row = Mapping[str, Any]
#: errors that settings can cause; any other one, trial after trial, is a broken machine or a bug
EXPECTED = (TrainingError, ConfigError, torch.OutOfMemoryError)


class Failed(Exception):
    """A failed trial: its reason in one line, and whether settings can cause it."""

    def __init__(self, reason: str, expected: bool) -> None:
        super().__init__(reason)
        self.reason, self.expected = reason, expected


class OutOfTimeError(HarnessError):
    """The study's device-hours are used up."""


class TrialReporter(Reporter):
    """Shows a trial's phases, writes its lines to a log, and calls `watch` after each epoch."""

    def __init__(self, name: str, log: Path, watch: Callable[[Row], None]) -> None:
        super().__init__()
        self.name, self.log, self.watch = name, log, watch
        self._shown = time.monotonic()

    def say(self, text: str) -> None:
        """Write a line to the trial's log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def epoch(self, row: Row) -> None:
        """Log a finished epoch; without a terminal, print one every half a minute."""
        self.say(epoch_line(row))
        if not self.live and time.monotonic() - self._shown > QUIET_SECONDS:
            self._shown = time.monotonic()
            super().say(f"  {self.name}: {epoch_line(row)}")
        self.watch(row)

    def phase(self, name: str) -> Callable[[int, int], None]:
        """Show a phase after the trial's name."""
        return super().phase(f"{self.name}  {name}")


class Objective:
    """Runs Optuna's trials."""

    def __init__(self, study: Study, plan: Plan) -> None:
        self.study, self.plan, self.settings = study, plan, plan.settings

    def __call__(self, trial: Trial) -> list[float]:
        """Run a trial and return its objectives.

        Raises:
            TrialPruned: the pruner stopped it. Failed: it has no result. OutOfTimeError: the
                device-hours are used up. DataError: the data are damaged for all trials.
        """
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        values = self.plan.space.draw(trial)
        earlier = [t for t in counted(self.study) if t.number < trial.number]
        if len(earlier) >= self.plan.trials:
            trial.set_user_attr("surplus", True)
            raise Failed("other workers run the last trials", False)
        for other in finished(earlier):
            if other.params == trial.params:
                return self._repeat(trial, other)
        started = time.monotonic() - float(trial.user_attrs.get("seconds", 0))
        first = f"trial-{[*trial.user_attrs.get('resumes', []), trial.number][0]:04d}"
        names = [first, *(f"{first}-{k}" for k in range(1, self.settings.seeds))]
        runs = [Run(self.settings.place / "trials" / name) for name in names]
        keep = self.settings.keep_networks
        try:
            config = self.plan.trial_config(values)
            for index, run in enumerate(runs):
                runs[index] = self._run(trial, config, run, runs[:index], started)
            return self._objectives(runs)
        except (TrialPruned, Failed):
            keep = False
            raise
        except (DataError, OutOfTimeError, UpdateFinishedTrialError, KeyboardInterrupt, SystemExit):
            keep = True  # the checkpoint
            raise
        except Exception as error:
            keep = False
            # without its frames, and the memory that they hold
            raise Failed(_in_one_line(error), isinstance(error, EXPECTED)) from None
        finally:
            with suppress(UpdateFinishedTrialError):
                self._count_time(trial, started)
            if not keep:
                for path in chain(*(run.folder.glob("*.pt") for run in runs)):
                    path.unlink(missing_ok=True)
            if torch.cuda.is_available():
                gc.collect()
                torch.cuda.empty_cache()

    def _run(
        self, trial: Trial, config: DictConfig, run: Run, before: list[Run], started: float
    ) -> Run:
        """One run of a trial: the same settings as the runs before it, the next seed."""
        config = config.copy()
        config.name, config.seed = run.name, int(config.seed) + len(before)
        ended = [self._criterion(other) for other in before]
        epochs = epochs_of(make_recipe(config))

        def watch(row: Row) -> None:
            step = len(ended) * len(epochs) + epochs.index((row["stage"], row["epoch"]))
            self._watch(trial, row, step, ended, started)

        seed = f", seed {config.seed}" if self.settings.seeds > 1 else ""
        while run.running:  # a worker considered dead may only have been suspended
            time.sleep(1)
        reporter = TrialReporter(f"trial {trial.number}{seed}", run.folder / "log.txt", watch)
        return run_experiment(config, reporter)

    def _criterion(self, run: Run) -> float:
        """The criterion after the last epoch of a finished run."""
        return float(run.history()[-1][self.settings.column])

    def _objectives(self, runs: list[Run]) -> list[float]:
        value = sum(map(self._criterion, runs)) / len(runs)
        if not math.isfinite(value):
            raise Failed("the criterion is not a number", True)
        if self.settings.against is None:
            return [value]
        if self.settings.against == "hours":
            second = [run.record["seconds"] / 3600 for run in runs]
        else:
            second = [[*run.record["stages"].values()][-1]["images_per_second"] for run in runs]
        return [value, float(sum(second) / len(second))]

    def _watch(self, trial: Trial, row: Row, step: int, ended: list[float], started: float) -> None:
        """After each epoch: report the criterion, and stop if it is hopeless or time is used up.

        Args:
            step: number of the epoch in the trial. ended: the criterion of the trial's finished
                runs, with which the mean is reported.
        """
        self._count_time(trial, started)
        value = row.get(self.settings.column)
        if self.settings.against is None and value is not None:
            if step not in self.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
                trial.report((sum(ended) + float(value)) / (len(ended) + 1), step)
            if "default" not in trial.user_attrs and trial.should_prune():
                raise TrialPruned(f"after {row['stage']} {row['epoch']}")
        hours = self.settings.hours
        if hours is not None and seconds_of(counted(self.study)) >= hours * 3600:
            raise OutOfTimeError(f"search.hours={hours:g} are used up.")

    @staticmethod
    def _count_time(trial: Trial, started: float) -> None:
        trial.set_user_attr("seconds", round(time.monotonic() - started, 2))

    def _repeat(self, trial: Trial, other: FrozenTrial) -> list[float]:
        """The result of an earlier trial with the same values."""
        trial.set_user_attr("same_as", other.number)
        trial.set_user_attr("seconds", 0.0)
        if other.state == TrialState.FAIL:
            raise Failed(f"as trial {other.number}: {reason(other)}", True)
        if other.state == TrialState.PRUNED:
            if other.last_step is not None:
                trial.report(other.intermediate_values[other.last_step], other.last_step)
            raise TrialPruned(f"as trial {other.number}")
        return list(other.values)


def _in_one_line(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error):
        return "out of memory"
    if isinstance(error, HarnessError):
        return error.cause
    return f"{type(error).__name__}: {first_line(error)}"
