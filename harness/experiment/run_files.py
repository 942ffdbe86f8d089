"""The files of a run: networks, per-query results, the checkpoint to resume from, the record.

With several processes only the first one writes.

A run that replaces a finished one (`overwrite=always`) is made in the folder `.replacement` inside
the run's folder. When its record is written, its files take the place of the old ones.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.components.backbones.batchnorm import target_state
from harness.components.backbones.weights import read_state
from harness.core.arrays import read_npz
from harness.core.distributed import collectives, processes
from harness.core.environment import peak_memory
from harness.core.errors import ConfigError, DataError, first_line
from harness.core.files import write_atomically, write_json
from harness.core.interfaces import Backbone
from harness.core.progress import Reporter
from harness.core.tensor_files import load_verified
from harness.core.throughput import highest
from harness.evaluation import kept_features
from harness.evaluation.evaluator import Evaluator
from harness.experiment.plan import Plan
from harness.results import tracking
from harness.results.run_status import FAILED
from harness.results.schema import checkpoint_problem
from harness.results.store import REPLACED, REPLACEMENT, Run

AFRESH = "Start the experiment afresh with overwrite=always."
CHECKPOINT, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
RECORD = "record.json"


@dataclass
class Progress:
    """How far an experiment has come, and what it took; all of it is in checkpoints.

    environment: in which it began. history: one row per epoch. stages: finished stage → its metrics
    and cost. processes: how many processes worked on it; an entry more after each change.
    """

    device: torch.device
    environment: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    processes: list[int] = field(default_factory=lambda: [processes.world_size()])
    _seconds: float = 0.0
    _device_seconds: float = 0.0
    _memory: Mapping[str, float] = field(default_factory=dict)
    _started: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Wall seconds, those before a resume included."""
        return self._seconds + time.perf_counter() - self._started

    @property
    def device_seconds(self) -> float:
        """Wall seconds × number of processes, each with a device of its own."""
        return self._device_seconds + processes.world_size() * (time.perf_counter() - self._started)

    @property
    def memory_mib(self) -> dict[str, float]:
        """Peak memory of this process and of those before a resume."""
        return highest(self._memory, peak_memory(self.device))

    def state_dict(self) -> dict[str, Any]:
        """The progress as plain data; the history as JSON, which checkpoints can hold."""
        return {
            "environment": self.environment,
            "history": json.dumps(self.history),
            "stages": self.stages,
            "processes": self.processes,
            "seconds": self.seconds,
            "device_seconds": self.device_seconds,
            "memory_mib": self.memory_mib,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.environment = state["environment"]
        self.history = json.loads(state["history"])
        self.stages = dict(state["stages"])
        before = list(state["processes"])
        self.processes = before + [n for n in self.processes if n != before[-1]]
        self._seconds = float(state["seconds"])
        self._device_seconds = float(state["device_seconds"])
        self._memory = state["memory_mib"]

    def count_earlier(self, record: Mapping[str, Any]) -> None:
        """Add the cost of a record's run."""
        self.environment = record["environment"]
        self._seconds = float(record.get("seconds") or 0.0)
        self._device_seconds = 3600 * float(record.get("device_hours") or 0.0)


@dataclass(frozen=True)
class RunFiles:
    """Reads and writes the files of one run.

    replaces: whether the run has a record, which stays until the new one is complete.
    """

    run: Run
    replaces: bool = False

    @property
    def folder(self) -> Path:
        """Where the files are written."""
        return self.run.folder / REPLACEMENT if self.replaces else self.run.folder

    @property
    def writes(self) -> bool:
        """Whether this process is the first."""
        return processes.rank() == 0

    def clear(self) -> None:
        """Remove what an earlier run of the experiment left."""
        for path in list(_results(self.folder)) if self.writes else ():
            path.unlink()

    def remove_leftovers(self) -> None:
        """Remove temporary files that a killed process left."""
        for path in leftovers(self.folder) if self.writes else ():
            path.unlink(missing_ok=True)

    def put_in_place(self) -> bool:
        """Move the files of a finished replacement to the place of the earlier run's.

        May be killed at any point and called again. Returns whether there was a replacement.
        """
        return collectives.broadcast_from_first(self._put_in_place)

    def _put_in_place(self) -> bool:
        made, ready = self.run.folder / REPLACEMENT, self.run.folder / REPLACED
        if (made / RECORD).is_file():
            kept = {RECORD, *(path.name for path in made.iterdir())}
            for path in list(_results(self.run.folder)):
                if path.name not in kept:
                    path.unlink()
            made.replace(ready)
        if not ready.is_dir():
            return False
        for path in sorted(ready.iterdir()):
            path.replace(self.run.folder / path.name)
        ready.rmdir()
        return True

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file of the run."""
        if self.writes:
            write_json(self.folder / name, content)

    def save_network(self, stage: str, backbone: Backbone) -> None:
        """Keep the network of a stage."""
        if self.writes:
            state = target_state(backbone)  # without the norms of a labeled source
            write_atomically(self.folder / f"{stage}.pt", lambda file: torch.save(state, file))

    def save_queries(self, stage: str, evaluator: Evaluator) -> None:
        """Keep the per-query results behind a stage's metrics, and features if wanted."""
        if evaluator.last is None or not self.writes:  # not evaluated
            return
        path = self.folder / "per_query.npz"
        arrays = read_arrays(path) | query_arrays(stage, evaluator)
        write_atomically(path, lambda file: np.savez_compressed(file, allow_pickle=False, **arrays))
        if evaluator.features is not None:
            query, gallery = evaluator.features
            kept_features.save(self.folder, stage, query, gallery, evaluator.ground_truth,
                               evaluator.fingerprint)  # fmt: skip

    def save_checkpoint(
        self,
        plan: Plan,
        progress: Progress,
        fingerprint: str,
        trainer: Mapping[str, Any] | None,
        best: Mapping[str, Any],
    ) -> None:
        """Write the history for readers, then the checkpoint. The one before it is kept.

        trainer: the state of the stage in progress; None between stages. best: metrics of its best
        epoch so far, by the selection.
        """
        if not self.writes:
            return
        write_json(self.folder / "history.json", progress.history)
        state = progress.state_dict() | {
            "settings": plan.hash,
            "seed": int(plan.config.seed),
            "data": fingerprint,
            "trainer": trainer,
            "best": dict(best),
        }
        write_atomically(
            self.folder / CHECKPOINT,
            lambda file: torch.save(state, file),
            previous=self.folder / PREVIOUS,
        )

    @property
    def has_checkpoint(self) -> bool:
        return any((self.folder / name).is_file() for name in (CHECKPOINT, PREVIOUS))

    def load_checkpoint(
        self, plan: Plan, progress: Progress, fingerprint: str, reporter: Reporter
    ) -> Mapping[str, Any] | None:
        """Continue `progress` from the checkpoint; returns it if a stage is in progress.

        A damaged checkpoint is named, and the one before it used.

        Raises:
            ConfigError: it is of other settings. DataError: it is of other images, all are damaged,
                or the network of a finished stage is missing.
        """
        state, problem = collectives.broadcast_from_first(self._read_checkpoint)
        if problem:
            reporter.say(problem)
        if state is None:
            return None
        if (state["settings"], state["seed"]) != (plan.hash, int(plan.config.seed)):
            raise ConfigError(
                f"{self.run.name} is another experiment: it has other settings or another seed.",
                "Choose another name=, or start it afresh with overwrite=always.",
            )
        if state["data"] != fingerprint:
            raise DataError(
                f"The images of {plan.config.dataset.name} are not those that {self.run.name} "
                "was started with.",
                "Bring them back, or start the experiment afresh with overwrite=always.",
            )
        progress.load_state_dict(state)
        collectives.broadcast_from_first(lambda: self._check_networks(progress))
        return state if state["trainer"] is not None else None

    def _read_checkpoint(self) -> tuple[dict[str, Any] | None, str]:
        """The newest checkpoint that is intact, if any, and what is wrong with a newer one."""
        problem = ""
        for name in (CHECKPOINT, PREVIOUS):
            path = self.folder / name
            if not path.is_file():
                continue
            try:
                state = load_verified(path)
                if found := checkpoint_problem(state):
                    raise ValueError(found)
            except Exception as error:
                also = f"{problem}, and so is the one before it" if problem else ""
                problem = also or f"{path} is damaged ({shorten(first_line(error), 120)})"
            else:
                return state, f"{problem}: continuing from the one before it." if problem else ""
        if problem:
            raise DataError(f"{problem}.", AFRESH)
        return None, ""

    @contextmanager
    def explain_unusable(self) -> Iterator[None]:
        """Turn errors while a checkpoint's state is taken over into errors that name it."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise DataError(
                f"{self.folder}: the checkpoint cannot be used: {reason}.", AFRESH
            ) from error

    def _check_networks(self, progress: Progress) -> None:
        """Check that the networks of finished stages are there."""
        for stage in progress.stages:
            if not (self.folder / f"{stage}.pt").is_file():
                raise DataError(
                    f"{self.folder}: {stage}.pt of the finished stage '{stage}' is missing.", AFRESH
                )

    def without_queries(self, progress: Progress) -> list[str]:
        """Finished stages whose per-query results are missing or damaged."""
        queries = read_arrays(self.folder / "per_query.npz")
        tested = [stage for stage, result in progress.stages.items() if result["metrics"]]
        return [stage for stage in tested if f"{stage}_ap" not in queries]

    def stage_weights(self, stage: str) -> dict[str, Tensor]:
        """The weights of a finished stage, on all processes.

        Raises:
            DataError: they cannot be read.
        """
        path = self.folder / f"{stage}.pt"
        return collectives.broadcast_from_first(lambda: read_state(path))

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write the record, then remove the checkpoints."""
        if self.writes:
            write_json(self.folder / RECORD, record)
            for name in (PREVIOUS, CHECKPOINT):
                (self.folder / name).unlink(missing_ok=True)


def _results(folder: Path) -> Iterator[Path]:
    """The files of a run, without its lock and its configuration."""
    for pattern in (RECORD, "history.json", FAILED, "*.pt", "*.npz", "eval*.json"):
        yield from folder.glob(pattern)
    yield from tracking.forget(folder)


def has_finished_replacement(folder: Path) -> bool:
    """Whether a run's replacement is finished, but was not moved to its place."""
    return collectives.broadcast_from_first((folder / REPLACEMENT / RECORD).is_file)


def leftovers(folder: Path) -> list[Path]:
    """What a killed process can leave in a run's folder: temporary files; beside a record, also
    checkpoints.
    """
    beside = [folder / CHECKPOINT, folder / PREVIOUS] if (folder / RECORD).is_file() else []
    return [*folder.glob("*.tmp"), *(path for path in beside if path.is_file())]


def query_arrays(stage: str, evaluator: Evaluator) -> dict[str, np.ndarray]:
    """The per-query results of an evaluator's last test, (Q,) each."""
    assert evaluator.last is not None
    return {
        f"{stage}_ap": evaluator.last.ap.astype(np.float32),
        f"{stage}_inp": evaluator.last.inp.astype(np.float32),
        f"{stage}_first_match_rank": evaluator.last.first_match_rank.astype(np.int32),
        # queries of one identity are alike, which a comparison has to take into account
        "query_identity": evaluator.data.query.identities.astype(np.int64),
    }


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file; none if it is missing or damaged."""
    try:
        return read_npz(path)
    except (OSError, ValueError):
        return {}
