"""The files of a run: networks, per-query results, the checkpoint to resume from, the record.

With several processes only the first one writes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.core.arrays import read_npz
from harness.core.distributed import collectives, processes
from harness.core.environment import peak_memory
from harness.core.errors import ConfigError, DataError, first_line
from harness.core.files import write_atomically, write_json
from harness.core.interfaces import Backbone
from harness.core.throughput import highest
from harness.evaluation import kept_features
from harness.evaluation.evaluator import Evaluator
from harness.experiment.plan import Plan
from harness.results import tracking
from harness.results.schema import TrainedEpoch, checkpoint_problem, history_problem
from harness.results.store import Run

AFRESH = "Start the experiment afresh with overwrite=always."


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
        """Everything but the history, which has a file of its own."""
        return {
            "environment": self.environment,
            "rows": len(self.history),
            "stages": self.stages,
            "processes": self.processes,
            "seconds": self.seconds,
            "device_seconds": self.device_seconds,
            "memory_mib": self.memory_mib,
        }

    def load_state_dict(self, state: Mapping[str, Any], history: list[dict[str, Any]]) -> None:
        """Continue from a checkpoint's state and the history file."""
        self.environment = state["environment"]
        self.history = history[: state["rows"]]
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
    """Reads and writes the files of one run."""

    run: Run

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def writes(self) -> bool:
        """Whether this process is the first."""
        return processes.rank() == 0

    def clear(self) -> None:
        """Remove what an earlier run of the experiment left."""
        if not self.writes:
            return
        patterns = ("record.json", "history.json", "*.pt", "*.npz", "eval*.json")
        old = [path for pattern in patterns for path in self.folder.glob(pattern)]
        for path in [*old, *tracking.forget(self.folder)]:
            path.unlink()

    def remove_leftovers(self) -> None:
        """Remove temporary files that a killed process left."""
        for path in self.folder.glob("*.tmp") if self.writes else ():
            path.unlink()

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file of the run."""
        if self.writes:
            write_json(self.folder / name, content)

    def save_network(self, stage: str, backbone: Backbone) -> None:
        """Keep the network of a stage."""
        if self.writes:
            state = backbone.state_dict()
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
        """Write the history, then the checkpoint that refers to it.

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
        write_atomically(self.folder / "checkpoint.pt", lambda file: torch.save(state, file))

    def load_checkpoint(
        self, plan: Plan, progress: Progress, fingerprint: str
    ) -> Mapping[str, Any] | None:
        """Continue `progress` from the checkpoint; returns it if a stage is in progress.

        Raises:
            ConfigError: it is of other settings. DataError: it is of other images, or damaged, or
                files that it refers to are missing.
        """
        state = collectives.broadcast_from_first(self._read_checkpoint)
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
        history = collectives.broadcast_from_first(self.run.history)
        if problem := history_problem(history, TrainedEpoch):
            raise DataError(f"{self.folder}: history.json cannot be used: {problem}.", AFRESH)
        progress.load_state_dict(state, history)
        collectives.broadcast_from_first(lambda: self._check_complete(progress, state["rows"]))
        return state if state["trainer"] is not None else None

    def _read_checkpoint(self) -> dict[str, Any] | None:
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise DataError(f"{path} cannot be read ({type(error).__name__}).", AFRESH) from error
        if problem := checkpoint_problem(state):
            raise self.unusable(problem)
        return state

    def unusable(self, problem: str) -> DataError:
        """The error for a checkpoint that can be read, and that this run cannot go on from."""
        return DataError(f"{self.folder}: checkpoint.pt cannot be used: {problem}.", AFRESH)

    @contextmanager
    def explain_unusable(self) -> Iterator[None]:
        """Turn errors while a checkpoint's state is taken over into `unusable`."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
            raise self.unusable(f"{type(error).__name__}: {first_line(error)}") from error

    def _check_complete(self, progress: Progress, rows: int) -> None:
        """Check that the files of finished stages are there."""
        problems = []
        if len(progress.history) < rows:
            problems.append(f"history.json has {len(progress.history)} of {rows} epochs.")
        queries = read_arrays(self.folder / "per_query.npz")
        for stage, result in progress.stages.items():
            if not (self.folder / f"{stage}.pt").is_file():
                problems.append(f"{stage}.pt of the finished stage '{stage}' is missing.")
            if result["metrics"] and f"{stage}_ap" not in queries:
                problems.append(f"per_query.npz lacks the finished stage '{stage}'.")
        if problems:
            raise DataError(f"{self.folder}: {problems[0]}", AFRESH)

    def finish(self, record: Mapping[str, Any]) -> None:
        """Write the record, then remove the checkpoint."""
        if self.writes:
            write_json(self.folder / "record.json", record)
            (self.folder / "checkpoint.pt").unlink(missing_ok=True)


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
