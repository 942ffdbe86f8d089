"""`overwrite=only-missing`: what a finished experiment lacks is made without training."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from harness.core.errors import DataError, HarnessError
from harness.core.files import write_atomically, write_json
from harness.evaluation import kept_features
from harness.evaluation.ranking import RANKS
from harness.experiment.model_loading import load_network
from harness.experiment.naming import portable_config, settings_hash
from harness.experiment.run import Experiment
from harness.results import tracking
from harness.results.store import Run, Store

#: points of per cent that mAP may be off the record on another device or with other threads
TOLERANCE = 0.1
#: what a record's metrics hold
METRICS = (
    "mAP",
    *(f"rank{k}" for k in RANKS),
    "mINP",
    "queries",
    "queries_without_match",
    "gallery",
)


def missing(run: Run, config: DictConfig) -> dict[str, list[str]]:
    """Stage → what the run's record or folder lacks of it: `queries`, `features`, `metrics`."""
    found: dict[str, list[str]] = {}
    stored = _arrays(run.folder / "per_query.npz")
    for stage, result in run.record["stages"].items():
        if not result["metrics"]:
            continue
        lacks = []
        if not {f"{stage}_ap", f"{stage}_first_match_rank", "query_identity"} <= stored:
            lacks.append("queries")
        if any(key not in result["metrics"] for key in METRICS):
            lacks.append("metrics")
        kept = kept_features.path_of(run.folder, stage)
        if config.evaluation.get("keep_features") and not kept.is_file():
            lacks.append("features")
        if lacks:
            found[stage] = lacks
    return found


def _arrays(path: Path) -> set[str]:
    try:
        with np.load(path) as arrays:
            return {key for key in arrays.files if arrays[key].ndim}  # which reads them
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return set()


def sibling(run: Run, config: DictConfig, precision: str, teachers: dict[str, str]) -> Run | None:
    """A finished run that differs in its evaluation alone, with the networks of all its stages.
    One whose checkpoint was chosen by the test is none: another rule would choose another.
    """
    if config.selection == "oracle":
        return None
    for other in Store(run.folder.parent).runs():
        if not other.finished or other.name == run.name:
            continue
        record = other.record
        if (record["experiment"]["method"], record["experiment"]["seed"]) != (
            config.method.name,
            config.seed,
        ):
            continue
        try:
            evaluation = other.config().get("evaluation") or {}
        except HarnessError:
            continue
        same = OmegaConf.merge(config, {"evaluation": evaluation})
        assert isinstance(same, DictConfig)
        if record["settings"] != settings_hash(same, precision, teachers):
            continue
        if all((other.folder / f"{stage}.pt").is_file() for stage in record["stages"]):
            return other
    return None


class Completed(Experiment):
    """A finished experiment to which what it lacks is added."""

    def complete(self, lacks: dict[str, list[str]]) -> None:
        """Test the networks of stages again, and keep what was not there.

        Raises:
            HarnessError: weights were not kept. DataError: the images or the network are not those
                of the record.
        """
        record = self.run.record
        evaluator = self._evaluator()
        if evaluator.fingerprint != record["dataset"]["fingerprint"]:
            raise DataError(
                f"{self.run.name} was made with other images than are there now.",
                "Bring them back, or run it afresh: overwrite=always.",
            )
        for stage, what in lacks.items():
            self.reporter.say(
                f"{self.run.name} ({stage}): {', '.join(what)} missing; tested again."
            )
            network = load_network(self.run, stage).to(self.device)
            metrics = evaluator.test(network)
            before = record["stages"][stage]["metrics"]
            if abs(metrics["mAP"] - before["mAP"]) > TOLERANCE:
                raise DataError(
                    f"{stage} of {self.run.name} now has mAP {metrics['mAP']:.2f}, its record says "
                    f"{before['mAP']:.2f}: nothing was changed.",
                    "Its network or the way of evaluation has changed: overwrite=always.",
                )
            path = self.folder / "per_query.npz"
            if not _arrays(path):  # damaged, and so missing for every stage
                path.unlink(missing_ok=True)
            self._remember(stage, evaluator)
            before.update({k: v for k, v in metrics.items() if k not in before})
        if any("metrics" in what for what in lacks.values()):
            last = list(record["stages"].values())[-1]["metrics"]
            write_json(self.folder / "record.json", record | {"metrics": last})

    def draw(self) -> bool:
        """Curves for a tracker that has none yet. Returns whether there were any to draw."""
        log, known = str(self.config.get("log", "none")), list(tracking.forget(self.folder))
        if log == "none" or known:
            return False
        shown = portable_config(self.config, self.precision, self.teachers)
        tracker = tracking.make_tracker(log, self.folder, self.run.name, shown, self.run.history())
        tracker.close(self.run.record["metrics"])
        return True


class Adopted(Experiment):
    """A cell that another one's networks make: it differs in its evaluation alone."""

    def adopt(self, source: Run) -> None:
        """Test the networks of `source` by this cell's rule and leave a record of its own, which
        says whose networks they are.
        """
        record = source.record
        self.reporter.say(f"{self.run.name}: tested by the networks of {source.name}.")
        evaluator = self._evaluator()
        if evaluator.fingerprint != record["dataset"]["fingerprint"]:
            raise DataError(
                f"{source.name} was made with other images than are there now.",
                "Bring them back, or train: overwrite=skip.",
            )
        self._check_cameras(evaluator)
        shown = portable_config(self.config, self.precision, self.teachers)
        write_json(self.folder / "config.json", shown)
        self.environment = record["environment"]
        self.seconds_before = float(record.get("seconds") or 0.0)
        self.device_seconds_before = 3600 * float(record.get("device_hours") or 0.0)
        self.history = [_untested(row) for row in source.history()]
        for stage, result in record["stages"].items():
            weights = (source.folder / f"{stage}.pt").read_bytes()
            write_atomically(self.folder / f"{stage}.pt", partial(_put, weights))
            metrics = evaluator.test(load_network(self.run, stage).to(self.device))
            self._remember(stage, evaluator)
            self.stages[stage] = result | {"metrics": metrics}
        write_json(self.folder / "history.json", self.history)
        self.notes = {"networks_of": source.name}
        self._finish(self.stages[stage]["metrics"], evaluator)


def _put(content: bytes, file: IO[bytes]) -> None:
    file.write(content)


def _untested(row: dict[str, Any]) -> dict[str, Any]:
    """An epoch without what another rule measured."""
    return {k: v for k, v in row.items() if k not in METRICS}


def remade(run: Run, experiment: Experiment) -> Iterator[str]:
    """Do what `only-missing` asks of a cell's folder, which is locked; yields what was done. It
    yields nothing where the cell has to be trained.
    """
    shared: Any = (experiment.config, experiment.recipe, experiment.card, experiment.settings, experiment.teachers, experiment.device,
                   experiment.precision, run, experiment.reporter)  # fmt: skip
    if run.finished:
        completed = Completed(*shared)
        if lacks := missing(run, experiment.config):
            completed.complete(lacks)
            yield "completed"
        if completed.draw():
            yield "drawn"
    elif not (run.folder / "checkpoint.pt").is_file():
        source = sibling(run, experiment.config, experiment.precision, dict(experiment.teachers))
        if source is not None:
            Adopted(*shared).adopt(source)
            yield "adopted"
