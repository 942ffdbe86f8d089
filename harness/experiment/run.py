"""Run an experiment once: lock its folder, then train, continue, backfill or report it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from omegaconf import DictConfig

from harness.core.distributed import collectives, processes
from harness.core.environment import reset_peak_memory
from harness.core.errors import ConfigError, DataError, HarnessError, did_you_mean
from harness.core.host_memory import keep_freed_memory
from harness.core.metrics import in_tables
from harness.core.precision import resolve_device
from harness.core.progress import Reporter, duration
from harness.experiment.backfill import backfill
from harness.experiment.experiment import Experiment
from harness.experiment.plan import Plan
from harness.experiment.preflight import Checked, check_all, plan_of
from harness.experiment.run_files import RunFiles, has_finished_replacement, leftovers
from harness.experiment.sections import check_complete
from harness.experiment.stages import load_data
from harness.results.run_status import noting_failure
from harness.results.store import LOG, Run, Store

#: what happens to a run that is there already
OVERWRITE = ("skip", "always", "backfill")


def run_experiment(config: DictConfig, reporter: Reporter | None = None) -> Run:
    """Run one experiment and return its run, finished. A finished one is only reported.

    `overwrite=skip` (the default) continues an unfinished run. `always` starts afresh; a finished
    run keeps its files until the new record is complete, and the same command continues a
    replacement that was stopped. `backfill` adds what a finished run lacks (see
    `harness.experiment.backfill`).

    Raises:
        HarnessError: the cause, and what to do about it.
    """
    processes.initialize()
    check_complete(config)
    overwrite = str(config.overwrite)
    if overwrite not in OVERWRITE:
        raise ConfigError(f"overwrite={overwrite} is unknown.", did_you_mean(overwrite, OVERWRITE))
    if overwrite == "backfill" and processes.is_distributed():
        raise ConfigError(
            "overwrite=backfill runs in one process.", "Give the command without torchrun."
        )
    device = resolve_device(processes.local_device(str(config.device)))
    plan = plan_of(config, device)
    with _prepared_process(config, device):
        return _run(plan, device, reporter, overwrite)


def _run(plan: Plan, device: torch.device, reporter: Reporter | None, overwrite: str) -> Run:
    run = Store(Path(str(plan.config.store))).run(plan.name)
    collectives.check_all_equal(f"{run.name} ({plan.hash}, {device.type})", "experiment")
    with reporter or Reporter(processes.rank_zero_console()) as reporter:
        changed = False
        if overwrite != "skip" or not _finished(run) or has_finished_replacement(run.folder):
            checked = check_all(plan, device)
            if not checked.noted:
                checked.problems.check()
            with collectives.locked_by_first(run.lock):
                run = Run(run.folder)  # another process may have finished it meanwhile
                if processes.rank() == 0:
                    reporter.log_to(run.folder / LOG)
                changed = _work(plan, device, run, reporter, checked, overwrite)
        run = collectives.broadcast_from_first(lambda: _read(run))  # others may not see its folder
        if not changed:
            _sweep(run)
            _check_same(run, plan)
            reporter.say(f"{run.name} is finished already (overwrite=always runs it again).")
        _say_metrics(run, reporter)
        return run


@contextlib.contextmanager
def _prepared_process(config: DictConfig, device: torch.device) -> Iterator[None]:
    """Device, memory and threads of this process. The next run of a sweep finds the threads that
    there were before: their number changes the order of sums, and so a result.
    """
    if device.type == "cuda" and processes.is_distributed():
        torch.cuda.set_device(device)  # collectives use the current device
    if device.type == "cpu":
        keep_freed_memory()
    before = torch.get_num_threads()
    if config.threads:
        processes.use_threads(int(config.threads), f"threads={config.threads}")
    elif processes.is_distributed():  # torchrun sets a single thread for each
        torch.set_num_threads(processes.threads_per_process())
    reset_peak_memory(device)  # else a record has the peak of the largest run of the sweep so far
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _work(
    plan: Plan, device: torch.device, run: Run, reporter: Reporter, checked: Checked, overwrite: str
) -> bool:
    """Do what `overwrite` says of a locked run. Returns whether anything was done.

    Raises:
        HarnessError: the checks found problems, or training fails.
        DataError: its record is damaged or of another version, and `overwrite` is not `always`.
    """
    if RunFiles(run).put_in_place() and overwrite == "always":
        return True  # all that a killed process had left to do
    run = Run(run.folder)
    problem = collectives.broadcast_from_first(lambda: run.problem)
    if problem and overwrite != "always":
        raise DataError(
            f"{run.name} has a record that cannot be used: {problem}.",
            "It is kept. Replace it with overwrite=always, or choose another name=.",
        )
    finished = _finished(run)
    replaces = overwrite == "always" and (finished or bool(problem))
    experiment = Experiment(plan, device, run, reporter, checked.data, replaces)
    if overwrite == "backfill":
        checked.problems.check()
        if finished:
            _check_same(run, plan)
        if backfill(experiment):
            return True
    if finished and not replaces:
        return False
    noting = noting_failure(Run(experiment.files.folder), lambda: experiment.progress.history)
    with noting if experiment.files.writes else contextlib.nullcontext():
        experiment.prepare_folder()
        checked.problems.check()
        experiment.execute(afresh=overwrite == "always" and not replaces)
    return True


def _sweep(run: Run) -> None:
    """Remove what a killed process left beside a record."""
    if processes.rank() == 0 and leftovers(run.folder):
        # a read-only store, or another process is there
        with contextlib.suppress(HarnessError, OSError), run.lock():
            RunFiles(run).remove_leftovers()


def _finished(run: Run) -> bool:
    return collectives.broadcast_from_first(lambda: run.finished)


def _read(run: Run) -> Run:
    fresh = Run(run.folder)
    assert fresh.record  # read here, it stays with the object; a HarnessError if it is damaged
    return fresh


def _check_same(run: Run, plan: Plan) -> None:
    """Check that a finished run is the experiment asked for, made with the same images."""
    record, config = run.record, plan.config
    if (record["settings"], record["experiment"]["seed"]) != (plan.hash, int(config.seed)):
        raise ConfigError(
            f"{run.name} is another experiment: it has other settings or another seed.",
            "Choose another name=, or replace it with overwrite=always.",
        )
    try:
        data = load_data(config)
    except DataError:
        return  # records can be read where the images are not
    if data.fingerprint() != record["dataset"]["fingerprint"]:
        raise DataError(
            f"{run.name} is finished, but {data.name} had other images then.",
            "Keep both with name=, or replace it with overwrite=always.",
        )


def _say_metrics(run: Run, reporter: Reporter) -> None:
    record = run.record
    for name, result in record["stages"].items():
        label = f"{record['experiment']['method']} ({name})"
        if not result["metrics"]:
            reporter.say(f"{label}: trained, not evaluated")
            continue
        # a metric that was added later is missing from earlier records
        values = [
            f"{metric.label} {result['metrics'][key]:.1f}"
            for key, metric in in_tables().items()
            if key in result["metrics"]
        ]
        reporter.say(f"{label}: {'  '.join(values)}")
    reporter.say(f"{run.folder}  ({duration(record['seconds'])})")
