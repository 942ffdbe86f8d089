"""Sweeps (`harness run -m`): launchers, and a summary of the runs that failed.

Hydra's launchers run the jobs. A job that fails returns its error as a value, so the others go on.
The callback `Outcomes` (harness/conf/config.yaml) collects these errors across processes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import sys
import traceback
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError, HarnessError, did_you_mean, first_line
from harness.core.files import write_json

#: launcher → the extra that installs it, and its module
LAUNCHERS = {
    "joblib": ("joblib", "hydra_plugins.hydra_joblib_launcher"),
    "submitit_local": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
    "submitit_slurm": ("slurm", "hydra_plugins.hydra_submitit_launcher"),
}
FAILED = "failed"
UNFINISHED = [
    "It has not ended: its process was killed, or is still running.",
    "If it was killed, perhaps for lack of memory, the same command resumes it.",
]
#: the folder of outcomes of the sweep that runs in this process
_folder: list[Path] = []


class Outcomes(Callback):
    """Writes how each run of a sweep ended into a file, whichever process it ran in."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Choose the folder; jobs in other processes receive it with this object."""
        self.folder = Path(str(config.hydra.sweep.dir)).absolute() / f"outcomes-{uuid.uuid4().hex}"
        _folder[:] = [self.folder]
        if logs := OmegaConf.select(config, "hydra.launcher.submitit_folder"):
            print(f"Jobs are submitted; their output is under {str(logs).rsplit('/%j', 1)[0]}")

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Count the run as unfinished until it ends: its process may be killed."""
        self._write(config, UNFINISHED)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Record the error that the job returned, if any."""
        if job_return.status == JobStatus.COMPLETED:
            self._write(config, job_return.return_value.get(FAILED))

    def _write(self, config: DictConfig, failed: list[str] | None) -> None:
        if self.folder is not None:
            overrides = filter_overrides(list(config.hydra.overrides.task))
            outcome = {"overrides": list(overrides), FAILED: failed}
            write_json(self.folder / f"{int(config.hydra.job.num):06d}.json", outcome)


def failure(error: Exception) -> dict[str, Any]:
    """What a job returns that failed. Its error is printed at once."""
    if isinstance(error, HarnessError):
        print(f"error: {error}", file=sys.stderr)
        return {FAILED: [error.cause, error.hint]}
    traceback.print_exception(error)
    return {FAILED: [f"{type(error).__name__}: {first_line(error)}", ""]}


def forget() -> None:
    """Forget the outcomes of an earlier sweep of this process, whose launcher stopped."""
    _folder.clear()


def summarize() -> None:
    """End a sweep.

    Raises:
        HarnessError: runs failed; lists each with its error.
    """
    total, failed = _failures()
    if _folder:
        shutil.rmtree(_folder.pop(), ignore_errors=True)
    if failed:
        cause = f"{len(failed)} of {total} runs failed; the others are in the store."
        raise HarnessError(cause, "\n  ".join(failed))


def stopped(error: Exception) -> HarnessError:
    """What to report if the launcher itself gave up: no queue, or a process was killed."""
    if isinstance(error, OSError):  # the folder of Hydra's notes
        reason = error.strerror or str(error)
        return ConfigError(f"The store cannot be written: {reason}.", "Choose another: store=DIR.")
    hint = (
        "Finished runs are in the store, and jobs that were submitted go on. The same command runs "
        "the rest, and resumes what was stopped."
    )
    return HarnessError(
        f"The launcher stopped ({type(error).__name__}: {first_line(error)}).",
        "\n  ".join([hint, *_failures()[1]]),
    )


def _failures() -> tuple[int, list[str]]:
    """How many runs began, and of each that failed: its own overrides and its error."""
    files = sorted(_folder[0].glob("*.json")) if _folder else []
    outcomes = [json.loads(path.read_text()) for path in files]
    each = [set(outcome["overrides"]) for outcome in outcomes]
    shared = set.intersection(*each) if each else set()
    failed = []
    for outcome in outcomes:
        if outcome[FAILED]:
            cause, hint = outcome[FAILED]
            own = [override for override in outcome["overrides"] if override not in shared]
            failed.append(
                "\n    ".join([" ".join(own) or "the only one", cause, *hint.splitlines()])
            )
    return len(outcomes), failed


def check_launcher(words: Sequence[str], multirun: bool) -> None:
    """Refuse a launcher that does not exist, is not installed, or has a single job.

    Raises:
        ConfigError: with the extra to install, or what to add.
    """
    for word in words:
        key, _, name = word.lstrip("+").partition("=")
        if key != "hydra/launcher" or name == "basic":
            continue
        if name not in LAUNCHERS:
            hint = did_you_mean(name, LAUNCHERS)
            if hint.startswith("Did"):
                raise ConfigError(f"There is no hydra/launcher '{name}'.", hint)
            continue  # perhaps that of another Hydra plug-in
        extra, module = LAUNCHERS[name]
        if not _is_installed(module):
            raise ConfigError(
                f"hydra/launcher={name} needs a package that is not installed.",
                f'pip install "usl-reid-harness[{extra}]"',
            )
        if not multirun and not any(word.startswith("-") for word in words):
            raise ConfigError(f"hydra/launcher={name} launches sweeps only.", "Add -m.")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


@contextlib.contextmanager
def as_one_job() -> Iterator[None]:
    """Let the tasks of a SLURM job (`hydra.launcher.tasks_per_node`) share one run.

    They are connected as torchrun's processes are.
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
