"""What a experiment keeps, and when: networks, rankings, the checkpoint to resume from, the record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from harness.core.distributed import collectives, processes
from harness.core.environment import environment, peak_memory
from harness.core.errors import ConfigError, DataError
from harness.core.files import write_atomically, write_json
from harness.core.interfaces import Backbone
from harness.core.progress import Reporter
from harness.core.throughput import highest
from harness.evaluation import kept_features
from harness.evaluation.evaluator import Evaluator
from harness.experiment.init_from import Init, find_init
from harness.experiment.recipe import Recipe
from harness.results import tracking
from harness.results.store import SCHEMA, Run
from harness.results.tracking import NoTracker, Tracker
from harness.training.trainer import Trainer


@dataclass
class StoredExperiment:
    """What a cell was asked for, what has come out so far, and the files that keep it."""

    config: DictConfig
    recipe: Recipe
    card: dict[str, Any]
    settings: str
    teachers: Mapping[str, str]
    device: torch.device
    precision: str
    run: Run
    reporter: Reporter
    history: list[dict[str, Any]] = field(default_factory=list)
    #: stage → its metrics and cost, filled as stages end
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds_before: float = 0.0
    device_seconds_before: float = 0.0
    peak_before: Mapping[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)
    #: what else the record says
    notes: dict[str, Any] = field(default_factory=dict)
    tracker: Tracker = field(default_factory=NoTracker)
    environment: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.init: Init | None = find_init(self.config)
        self.environment = environment(self.device)  # now: the checkout may change while we run
        #: how many processes worked on it, one entry more whenever it went on with another number
        self.processes = [processes.world_size()]

    @property
    def folder(self) -> Path:
        return self.run.folder

    @property
    def keeps(self) -> bool:
        """Whether this process writes the cell's files: of several the first one alone does."""
        return processes.rank() == 0

    def forget(self) -> None:
        """Remove what an earlier run of this experiment left."""
        if not self.keeps:
            return
        for pattern in ("record.json", "history.json", "*.pt", "*.npz", "eval*.json"):
            for path in self.folder.glob(pattern):
                path.unlink()
        for path in tracking.forget(self.folder):
            path.unlink()

    def _save_network(self, stage: str, backbone: Backbone) -> None:
        if not self.keeps:
            return
        state = backbone.state_dict()
        write_atomically(self.folder / f"{stage}.pt", lambda file: torch.save(state, file))

    def _remember(self, stage: str, evaluator: Evaluator) -> None:
        """Keep the ranking behind a stage's metrics."""
        if evaluator.last is None or not self.keeps:  # not evaluated
            return
        arrays = {}
        path = self.folder / "per_query.npz"
        if path.is_file():
            with np.load(path) as old:
                arrays = {key: old[key] for key in old.files}
        arrays[f"{stage}_ap"] = evaluator.last.ap.astype(np.float32)
        arrays[f"{stage}_first_match_rank"] = evaluator.last.first_match_rank.astype(np.int32)
        # who is asked for: queries of one person are alike, which a comparison has to know
        arrays["query_identity"] = evaluator.data.query.identities.astype(np.int32)
        write_atomically(path, lambda file: np.savez_compressed(file, **arrays))
        if evaluator.features is not None:
            query, gallery = evaluator.features
            fingerprint = evaluator.fingerprint
            kept_features.save(self.folder, stage, query, gallery, evaluator.truth, fingerprint)

    def _save_checkpoint(
        self, trainer: Trainer | None, best: Mapping[str, Any], fingerprint: str
    ) -> None:
        """History first, then the checkpoint that refers to it."""
        if not self.keeps:
            return
        write_json(self.folder / "history.json", self.history)
        state = {
            "settings": self.settings,
            "seed": int(self.config.seed),
            "data": fingerprint,
            "environment": self.environment,
            "processes": self.processes,
            "rows": len(self.history),
            "stages": self.stages,
            "seconds": self.seconds,
            "device_seconds": self.device_seconds,
            "best": dict(best),
            "memory_mib": self._peak(),
            "trainer": trainer.state_dict() if trainer is not None else None,
        }
        write_atomically(self.folder / "checkpoint.pt", lambda file: torch.save(state, file))

    def _load_checkpoint(self, fingerprint: str) -> Mapping[str, Any] | None:
        """Set up `history` and `stages`; the state of a stage in progress, if there is one."""
        state = collectives.broadcast_from_first(self._read_checkpoint)
        if state is None:
            return None
        if (state["settings"], state["seed"]) != (self.settings, int(self.config.seed)):
            raise ConfigError(
                f"{self.run.name} was begun as another experiment: with other settings or another seed.",
                "Choose another name=, or start it afresh with overwrite=always.",
            )
        if state["data"] != fingerprint:
            raise DataError(
                f"The images of {self.config.dataset.name} are not those that {self.run.name} "
                "was begun with.",
                "Bring them back, or start the experiment afresh with overwrite=always.",
            )
        self.history = collectives.broadcast_from_first(self.run.history)[: state["rows"]]
        self.stages = dict(state["stages"])
        self.environment = state["environment"]  # that in which the cell was begun
        before = state.get("processes", [1])
        self.processes = before + [n for n in self.processes if n != before[-1]]
        self.seconds_before = float(state["seconds"])
        self.device_seconds_before = float(state.get("device_seconds", state["seconds"]))
        self.peak_before = state.get("memory_mib", {})
        for name in self.stages:
            self.reporter.say(f"{name}: finished before.")
        return state if state["trainer"] is not None else None

    def _read_checkpoint(self) -> dict[str, Any] | None:
        path = self.folder / "checkpoint.pt"
        if not path.is_file():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise DataError(
                f"{path} cannot be read ({type(error).__name__}).",
                "Start the experiment afresh with overwrite=always.",
            ) from error
        return state

    def _peak(self) -> dict[str, float]:
        """Peak memory in MiB, of this process and of those before it."""
        return highest(self.peak_before, peak_memory(self.device))

    @property
    def seconds(self) -> float:
        """Wall seconds of the experiment, those before a resume included."""
        return self.seconds_before + time.perf_counter() - self.started

    @property
    def device_seconds(self) -> float:
        """Those of each moment times the processes, and so devices, that it had."""
        return self.device_seconds_before + processes.world_size() * (time.perf_counter() - self.started)

    def _finish(self, metrics: Mapping[str, Any], evaluator: Evaluator) -> None:
        """Write the record, then drop the checkpoint."""
        if not self.keeps:
            return
        data = evaluator.data
        record = {
            "schema": SCHEMA,
            "experiment": {
                "method": self.recipe.method,
                "dataset": data.name,  # a subset has a name of its own
                "protocol": self.card["name"],
                "seed": int(self.config.seed),
            },
            "settings": self.settings,
            **({"init": self.init.described()} if self.init else {}),
            "protocol": self.card,
            "evaluated": evaluator.evaluates,
            "metrics": {k: v for k, v in metrics.items() if k != "epoch"},
            "stages": self.stages,
            "dataset": {
                "name": data.name,
                "fingerprint": evaluator.fingerprint,
                "train": len(data.train.images),
                "query": len(data.query.images),
                "gallery": len(data.gallery.images),
                "unreadable": evaluator.skipped,
                # null: nothing is publicly known of it; []: all that is known agrees
                "not_as_published": evaluator.differences,
                "notes": dict(data.notes),
                **({"parts": evaluator.parts} if evaluator.parts else {}),
            },
            "seconds": round(self.seconds, 2),
            "devices": processes.world_size(),
            "device_hours": round(self.device_seconds / 3600, 5),
            "memory_mib": self._peak(),
            "pipeline": {
                "image_cache": evaluator.place.name if evaluator.place else None,
                "compile": self.config.train.compile if self.recipe.stages else "off",
            },
            "processes": self.processes,
            "environment": self.environment,
            "finished": time.strftime("%Y-%m-%d", time.gmtime()),
            **self.notes,
        }
        write_json(self.folder / "record.json", record)
        (self.folder / "checkpoint.pt").unlink(missing_ok=True)
