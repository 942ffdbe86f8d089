"""Many cells of one command: run one after another, by joblib or by SLURM, each on its own account.

Hydra's launchers run the cells; none of them is changed. A cell that fails says so at once where it
runs, and hands its failure back as a result, so that the others go on whatever launches them. In
the end the command tells what failed and why.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from omegaconf.errors import OmegaConfBaseException

from harness.core.errors import ConfigError, HarnessError, did_you_mean, first_line

#: launcher → the extra that brings it, and its module
LAUNCHERS = {
    "joblib": ("joblib", "hydra_plugins.hydra_joblib_launcher"),
    "submitit_local": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "submitit_slurm": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
}
#: key of a failure among what cells return
FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: its overrides, and its error if it failed."""

    overrides: Sequence[str]
    error: HarnessError | None


def check_launcher(arguments: Sequence[str], sweeps: bool) -> None:
    """Whether the launcher that is asked for is there, and has something to launch.

    Args:
        arguments: of the command. sweeps: whether it is a multirun.

    Raises:
        ConfigError: a misspelt launcher, one whose extra is missing, or a single cell for it.
    """
    for argument in arguments:
        key, _, name = argument.lstrip("+").partition("=")
        if key != "hydra/launcher":
            continue
        if name not in LAUNCHERS:
            if name != "basic" and did_you_mean(name, LAUNCHERS).startswith("Did"):
                raise ConfigError(
                    f"There is no hydra/launcher '{name}'.", did_you_mean(name, LAUNCHERS)
                )
            continue  # another plug-in's
        extra, module = LAUNCHERS[name]
        if not _there(module):
            raise ConfigError(
                f"hydra/launcher={name} needs a package that is not installed.",
                f'pip install "usl-reid-harness[{extra}]"',
            )
        if not sweeps and not any(a.startswith("-") for a in arguments):
            raise ConfigError(
                f"hydra/launcher={name} launches many cells; without -m there is only one.",
                "Add -m.",
            )


def _there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def failure(error: Exception) -> dict[str, Any]:
    """What a cell that failed returns, and says now: the others go on before the command ends."""
    if isinstance(error, HarnessError):
        print(f"error: {error}", file=sys.stderr)
        known = error
    else:
        traceback.print_exception(error)
        known = HarnessError(f"{type(error).__name__}: {first_line(error)}")
    return {FAILED: [known.cause, known.hint]}


@contextlib.contextmanager
def as_one_job() -> Iterator[None]:
    """The tasks that SLURM starts for a cell (`hydra.launcher.tasks_per_node`) work on it together,
    as torchrun's processes do.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ or "RANK" in os.environ:
        yield
        return
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    from harness.core.distributed import processes

    if JobEnvironment().num_tasks > 1:
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False)
    yield
    processes.shutdown()


@contextlib.contextmanager
def watched() -> Iterator[list[Outcome]]:
    """Whatever Hydra launches meanwhile, the list says how it ended."""
    outcomes: list[Outcome] = []
    original = Plugins.instantiate_launcher

    def instantiate(*arguments: Any, **options: Any) -> Launcher:
        return _Watched(original(*arguments, **options), outcomes)

    Plugins.instantiate_launcher = instantiate  # type: ignore[method-assign]
    try:
        yield outcomes
    finally:
        Plugins.instantiate_launcher = original  # type: ignore[method-assign]


class _Watched(Launcher):
    """A launcher that keeps account of its cells, and whom no cell can stop."""

    def __init__(self, launcher: Launcher, outcomes: list[Outcome]) -> None:
        self.launcher, self.outcomes = launcher, outcomes

    def setup(self, **options: Any) -> None:
        self.launcher.setup(**options)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        name = type(self.launcher).__name__
        if folder := getattr(self.launcher, "params", {}).get("submitit_folder"):
            shown = str(folder).rsplit("/%j", 1)[0]
            print(f"{len(job_overrides)} cells submitted; what they print is under {shown}")
        try:
            with _deaths_are_results():
                results = self.launcher.launch(job_overrides, initial_job_idx)
        except (HarnessError, HydraException, OmegaConfBaseException):
            raise
        except Exception as error:  # no queue, or a worker of joblib's was killed
            raise HarnessError(
                f"{name} stopped ({type(error).__name__}: {first_line(error)}).",
                "What is finished is in the store. The same command does the rest, and goes on "
                "where cells stopped.",
            ) from error
        for overrides, result in zip(job_overrides, results, strict=True):
            self.outcomes.append(Outcome(overrides, _error_of(result)))
        return [JobReturn(overrides=o, status=JobStatus.COMPLETED) for o in job_overrides]


def _dead(error: Exception) -> JobReturn:
    result = JobReturn(status=JobStatus.FAILED)
    result.return_value = HarnessError(
        f"its process ended without an answer ({type(error).__name__}: {first_line(error)}).",
        "The same command goes on from the last finished epoch.",
    )
    return result


def _error_of(result: JobReturn) -> HarnessError | None:
    value = result._return_value  # the property raises what it finds
    if result.status == JobStatus.COMPLETED:
        failed = value.get(FAILED) if isinstance(value, dict) else None
        return HarnessError(*failed) if failed else None
    return value if isinstance(value, HarnessError) else HarnessError(first_line(value))


@contextlib.contextmanager
def _deaths_are_results() -> Iterator[None]:
    """submitit raises for a job that died, before the others have been asked."""
    job = getattr(sys.modules.get("submitit") or _submitit(), "Job", None)
    if job is None:
        yield
        return
    original = job.results

    def results(self: Any) -> list[Any]:
        try:
            return original(self)
        except Exception as error:
            return [_dead(error)]

    job.results = results
    try:
        yield
    finally:
        job.results = original


def _submitit() -> Any:
    return importlib.import_module("submitit") if _there("submitit") else None


def summarize(outcomes: Sequence[Outcome]) -> None:
    """The end of a sweep.

    Raises:
        HarnessError: some cells failed; names each, and why.
    """
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if not failed:
        return
    shared = set.intersection(*(set(outcome.overrides) for outcome in outcomes))
    lines = []
    for outcome in failed:
        assert outcome.error is not None
        own = filter_overrides([o for o in outcome.overrides if o not in shared])
        lines += [" ".join(own) or "the only one", f"  {outcome.error.cause}"]
        lines += [f"  {line}" for line in outcome.error.hint.splitlines()]
    raise HarnessError(
        f"{len(failed)} of {len(outcomes)} cells failed; the others are in the store.",
        "\n  ".join(lines),
    )
