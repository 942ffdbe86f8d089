"""A worker: runs the trials of a shared study, and resumes those whose worker died or was stopped.

A trial is one run for each seed in the study's own store, evaluated epoch by epoch. Workers write
the time into their running trial, in any storage. A trial without a recent time is failed and added
again; the new one resumes from the checkpoint of the first attempt.
"""

from __future__ import annotations

import gc
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Any

import torch
from omegaconf import DictConfig
from optuna import Study, Trial, TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState, create_trial

from harness.core.errors import ConfigError, DataError, HarnessError, TrainingError, first_line
from harness.core.progress import QUIET_SECONDS, Reporter, duration, epoch_line
from harness.experiment.recipe import make_recipe
from harness.experiment.run import run_experiment
from harness.experiment.search.plan import Plan, epochs_of
from harness.experiment.search.study import best_of, counted, finished, reason, seconds_of
from harness.results.store import Run

Row = Mapping[str, Any]
Say = Callable[[str], None]
#: errors that settings can cause; any other one, trial after trial, is a broken machine or a bug
EXPECTED = (TrainingError, ConfigError, torch.OutOfMemoryError)
#: heartbeats that a worker may miss
MISSED = 3
#: what Optuna raises when a trial was finished by another worker
TAKEN = (UpdateFinishedTrialError, ValueError)


class Failed(Exception):
    """A failed trial: its reason in one line, and whether settings can cause it."""

    def __init__(self, reason: str, expected: bool) -> None:
        self.reason, self.expected = reason, expected


class OutOfTimeError(HarnessError):
    """The study's device-hours are used up."""


class TrialReporter(Reporter):
    """Shows a trial's phases, logs its lines, and calls `watch` after each epoch."""

    def __init__(self, name: str, watch: Callable[[Row], None]) -> None:
        super().__init__()
        self.name, self.watch = name, watch
        self._shown = time.monotonic()

    def say(self, text: str) -> None:
        self._write(text)

    def epoch(self, row: Row) -> None:
        self.say(epoch_line(row))
        if not self.live and time.monotonic() - self._shown > QUIET_SECONDS:
            self._shown = time.monotonic()
            self.show(f"  {self.name}: {epoch_line(row)}")
        self.watch(row)

    def phase(self, name: str) -> Callable[[int, int], None]:
        return super().phase(f"{self.name}  {name}")


class Objective:
    """Runs one of Optuna's trials.

    Attributes:
        ended: the criterion of the trial's finished runs.
    """

    def __init__(self, study: Study, plan: Plan, trial: Trial) -> None:
        self.study, self.plan, self.settings, self.trial = study, plan, plan.settings, trial
        self.started = time.monotonic() - float(trial.user_attrs.get("seconds", 0))
        self.ended: list[float] = []

    def run(self) -> list[float]:
        """Run the trial and return its objectives.

        Raises:
            TrialPruned: the pruner stopped it. Failed: it has no result. OutOfTimeError: the
                device-hours are used up. DataError: the data are damaged for all trials.
        """
        trial = self.trial
        trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
        values = self.plan.space.draw(trial)
        earlier = [t for t in counted(self.study) if t.number < trial.number]
        if len(earlier) >= self.plan.trials:
            trial.set_user_attr("surplus", True)
            raise Failed("other workers run the last trials", False)
        for other in finished(earlier):
            if other.params == trial.params:
                return self._repeat(other)
        first = f"trial-{[*trial.user_attrs.get('resumes', []), trial.number][0]:04d}"
        names = [first, *(f"{first}-{k}" for k in range(1, self.settings.seeds))]
        runs = [Run(self.settings.place / "trials" / name) for name in names]
        keep = self.settings.keep_networks
        try:
            config = self.plan.trial_config(values)
            runs = [self._run(config, run) for run in runs]
            return self._objectives(runs)
        except (DataError, OutOfTimeError, UpdateFinishedTrialError, KeyboardInterrupt, SystemExit):
            keep = True  # the checkpoint
            raise
        except Exception as error:
            keep = False
            if isinstance(error, TrialPruned | Failed):
                raise
            # without its frames, and the memory that they hold
            raise Failed(_in_one_line(error), isinstance(error, EXPECTED)) from None
        finally:
            with suppress(UpdateFinishedTrialError):
                self._count_time()
            if not keep:
                for path in chain(*(run.folder.glob("*.pt") for run in runs)):
                    path.unlink(missing_ok=True)
            if torch.cuda.is_available():
                gc.collect()
                torch.cuda.empty_cache()

    def _run(self, config: DictConfig, run: Run) -> Run:
        """One run of the trial: the same settings as the runs before it, the next seed."""
        config = config.copy()
        config.name, config.seed = run.name, int(config.seed) + len(self.ended)
        epochs = epochs_of(make_recipe(config))

        def watch(row: Row) -> None:
            position = epochs.index((row["stage"], row["epoch"]))
            self._watch(row, len(self.ended) * len(epochs) + position)

        seed = f", seed {config.seed}" if self.settings.seeds > 1 else ""
        while run.running:  # a worker considered dead may only have been suspended
            time.sleep(1)
        name = f"trial {self.trial.number}{seed}"
        run = run_experiment(config, TrialReporter(name, watch))
        self.ended.append(float(run.history()[-1][self.settings.column]))
        return run

    def _objectives(self, runs: list[Run]) -> list[float]:
        values = [_mean(self.ended)]
        if not math.isfinite(values[0]):
            raise Failed("the criterion is not a number", True)
        if self.settings.against == "hours":
            values.append(_mean([run.record["seconds"] / 3600 for run in runs]))
        elif self.settings.against == "images_per_second":
            last = [[*run.record["stages"].values()][-1] for run in runs]
            values.append(_mean([float(stage["images_per_second"]) for stage in last]))
        return values

    def _watch(self, row: Row, step: int) -> None:
        """After each epoch, the trial's step-th: report the criterion, stop a hopeless trial."""
        self._count_time()
        trial, value = self.trial, row.get(self.settings.column)
        if self.settings.against is None and value is not None:
            if step not in self.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
                trial.report(_mean([*self.ended, float(value)]), step)
            if "default" not in trial.user_attrs and trial.should_prune():
                raise TrialPruned(f"after {row['stage']} {row['epoch']}")
        if self.settings.out_of_time(seconds_of(counted(self.study))):
            raise OutOfTimeError(f"search.hours={self.settings.hours:g} are used up.")

    def _count_time(self) -> None:
        self.trial.set_user_attr("seconds", round(time.monotonic() - self.started, 2))

    def _repeat(self, other: FrozenTrial) -> list[float]:
        """The result of an earlier trial with the same values."""
        trial = self.trial
        trial.set_user_attr("same_as", other.number)
        trial.set_user_attr("seconds", 0.0)
        if other.state == TrialState.FAIL:
            raise Failed(f"as trial {other.number}: {reason(other)}", True)
        if other.state == TrialState.PRUNED:
            if other.last_step is not None:
                trial.report(other.intermediate_values[other.last_step], other.last_step)
            raise TrialPruned(f"as trial {other.number}")
        return list(other.values)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _in_one_line(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error):
        return "out of memory"
    if isinstance(error, HarnessError):
        return error.cause
    return f"{type(error).__name__}: {first_line(error)}"


def work(study: Study, plan: Plan, say: Say) -> None:
    """Run trials until the study has all of them or its device-hours are used up.

    While other workers run the last trials this one waits, in case one of them dies.

    Raises:
        HarnessError: trial after trial fails, or the data are missing.
    """
    settings, waits = plan.settings, False
    while True:
        requeue_abandoned(study, plan)
        trials = counted(study)
        done = finished(trials)
        if len(done) >= plan.trials or settings.out_of_time(seconds_of(trials)):
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
            _run_trial(study, plan, say)


def _run_trial(study: Study, plan: Plan, say: Say) -> None:
    """Run the next trial. One that was stopped is added again, to be resumed."""
    trial = study.ask()
    values: list[float] | None = None
    state = TrialState.FAIL
    try:
        try:
            with heartbeat(trial, plan.settings.heartbeat):
                values, state = Objective(study, plan, trial).run(), TrialState.COMPLETE
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
            f"See the logs in {plan.settings.place / 'trials'}. search.failures=N allows more.",
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
    line = f"trial {number} ({done}/{plan.trials})  {result}"
    if best is not None:
        line += f"  best {shown(best.values[0])} (trial {best.number})"
    drawn = ", ".join(f"{key.split('.')[-1]} {shown(v)}" for key, v in trial.params.items())
    line += f"  default: {drawn}" if "default" in trial.user_attrs else f"  {drawn}"
    if done < plan.trials:
        workers = sum(t.state == TrialState.RUNNING for t in trials) + 1
        left = seconds_of(trials) / done * (plan.trials - done) / workers
        line += f"  search ends in about {duration(left)}"
    return line


def shown(value: Any) -> str:
    """A value with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
