"""The store: one folder a cell. Safe with many writers: a folder has one owner at a time.

results/runs/mskd-market1501-s0-1a2b3c4d/
    record.json      what came out: written once, last; a folder without it is unfinished
    config.json      the resolved configuration
    history.json     one row an epoch
    per_query.npz    average precision and first match of every query, by stage
    checkpoint.pt    to resume from, while unfinished
    failed.json      why it stopped, if it did by an error
    <stage>.pt       the network at the end of each stage
    <stage>_features.npz   features of the test images, with evaluation.keep_features=true
    evaluation-*.json      metrics by another rule, from harness eval --save
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from harness.core.errors import ConfigError, HarnessError, did_you_mean
from harness.core.files import make_folder
from harness.core.tuned import row_mark
from harness.results import schema
from harness.results.schema import METRICS, SCHEMA

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["METRICS", "SCHEMA", "Run", "Store", "load"]
SPEEDS = ("images_per_second", "extract_images_per_second", "waiting")
PHASES = ("extract", "label", "search", "jaccard", "cluster", "train", "test")
#: seconds to wait for a run's lock: who only looks whether it is held lets go at once
PATIENCE = 2.0
LOCK = ".lock"


@dataclass(frozen=True)
class Run:
    """One cell's folder.

    known: what record.json holds, where the store's index has it already.
    """

    folder: Path
    known: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        """Whether it has a record that reads and is of this schema."""
        return self.problem is None and bool(self._record)

    @cached_property
    def _record(self) -> dict[str, Any] | str:
        """The record, or what is wrong with it."""
        if self.known is not None:
            return schema.read(self.known)
        try:
            raw = json.loads((self.folder / "record.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            return f"record.json cannot be read ({error})"
        return schema.read(raw)

    @property
    def problem(self) -> str | None:
        """What is wrong with the record, if anything."""
        return self._record if isinstance(self._record, str) else None

    @property
    def record(self) -> dict[str, Any]:
        """The record; empty while unfinished.

        Raises:
            HarnessError: it is damaged.
        """
        if isinstance(self._record, str):
            raise HarnessError(
                f"{self.folder}: {self._record}.", "Run it again with overwrite=always."
            )
        return self._record

    def config(self) -> dict[str, Any]:
        """The resolved configuration.

        Raises:
            HarnessError: the run has none.
        """
        try:
            found = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return found
        except (OSError, ValueError) as error:
            raise HarnessError(f"{self.folder} has no readable config.json.") from error
        raise HarnessError(f"{self.folder} has no readable config.json.")

    def history(self) -> list[dict[str, Any]]:
        """One row an epoch; empty before the first.

        Raises:
            HarnessError: it is damaged.
        """
        hint = "Run it again with overwrite=always."
        try:
            rows = json.loads((self.folder / "history.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise HarnessError(
                f"{self.folder}: history.json cannot be read ({error}).", hint
            ) from error
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise HarnessError(f"{self.folder}: history.json holds no rows.", hint)
        return rows

    def lock(self) -> FileLock:
        """The right to write here; let go by the system when the process dies.

        Raises:
            HarnessError: another process has it, or the folder cannot be written.
        """
        make_folder(self.folder)
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise HarnessError(
                f"Another process is running {self.name}.",
                "Wait for it, or choose another seed or store.",
            ) from error
        except (OSError, NotImplementedError) as error:
            raise HarnessError(
                f"{self.folder} cannot be locked: {error}.",
                "The store needs a file system with locks (NFS: mounted with them): store=DIR.",
            ) from error
        return lock

    @property
    def running(self) -> bool:
        """Whether a process, on this machine or another, has it now. Where its lock cannot be
        opened (another's store, to look at), no.
        """
        if not (self.folder / LOCK).is_file():
            return False
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except (OSError, NotImplementedError):
            return False
        lock.release()
        return False


@dataclass(frozen=True)
class Store:
    """A folder of runs."""

    folder: Path

    def run(self, name: str) -> Run:
        """The folder of one cell, there or not."""
        return Run(self.folder / name)

    def runs(self) -> Iterator[Run]:
        """All cells, by name."""
        from harness.results import index  # which makes runs

        return index.runs(self.folder)

    def find(self, name: str) -> Run:
        """A run by its folder, its name, or the beginning of its name if only one fits.

        Raises:
            ConfigError: none or several fit.
        """
        path = Path(name).expanduser()
        if (path / "config.json").is_file():
            return Run(path)
        names = [run.name for run in self.runs()]
        fitting = [name] if name in names else [n for n in names if n.startswith(name)]
        if len(fitting) == 1:
            return self.run(fitting[0])
        if fitting:
            more = ", …" if len(fitting) > 5 else ""
            raise ConfigError(f"'{name}' fits several runs: {', '.join(fitting[:5])}{more}.")
        raise ConfigError(
            f"There is no run '{name}' in {self.folder}.",
            did_you_mean(name, names) or "The store is empty.",
        )


def _device(environment: dict[str, Any]) -> str | None:
    """The GPU's name, or the processor's."""
    device = environment.get("device")
    return environment.get("cpu") or device if device == "CPU" else device


def _gpu_hours(record: dict[str, Any]) -> float | None:
    """Hours of the whole cell times its GPUs; None on a CPU."""
    seconds = record.get("seconds")
    if record["environment"].get("device") in (None, "CPU") or seconds is None:
        return None
    return float(record.get("device_hours", seconds * record.get("devices", 1) / 3600))


def _cost(record: dict[str, Any]) -> dict[str, Any]:
    """What a whole cell took. Before it was counted, a cell ran on one device."""
    devices, seconds = record.get("devices", 1), record.get("seconds")
    hours = None if seconds is None else seconds * devices / 3600
    peak = record.get("memory_mib", {})
    return {
        "devices": devices,
        "device_hours": record.get("device_hours", hours),
        "memory_host": peak.get("host"),
        "memory_device": peak.get("device"),
    }


def _phases(stage: dict[str, Any]) -> dict[str, Any]:
    seconds, steps = stage.get("seconds") or {}, stage.get("label_seconds") or {}
    return {f"seconds_{phase}": seconds.get(phase, steps.get(phase)) for phase in PHASES}


def load(store: str | Path = "results/runs") -> pd.DataFrame:
    """All finished runs of a store as a tidy table: see `frame`."""
    return frame(Store(Path(store).expanduser()).runs())


def frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Finished runs as a tidy table: one row a stage of a run (and one for untrained runs).

    Columns: run, method, stage, final (whether it is the run's last stage), dataset, data
    (fingerprint), unlike (how they differ from what was published, '' if they do not or nothing is
    known), protocol, protocol_hash, seed, settings (hash of all but the seed), cameras, selection,
    tuned (the search that its settings come from, '' if none), the metrics in percent,
    images_per_second, extract_images_per_second, waiting (the share of training that the network
    waited for data), seconds (of the whole cell), gpu_hours (missing on a CPU), device, devices,
    device_hours, memory_host and memory_device (peak MiB), the seconds_… of the stage's phases:
    extract, label (with its parts search, jaccard, cluster), train, test, and finished (day). What
    an older record lacks is missing. Damaged records are left out; `Run.problem` tells of them.
    """
    import pandas as pd

    rows = []
    for run in runs:
        if not run.finished:
            continue
        record = run.record
        cell, card = record["experiment"], record["protocol"]
        unlike = record.get("dataset", {}).get("not_as_published") or []
        base = {
            "run": run.name,
            "method": cell["method"],
            "dataset": cell["dataset"],
            "data": record.get("dataset", {}).get("fingerprint", "")[:8],
            "unlike": "; ".join(unlike),
            "protocol": card["name"],
            "protocol_hash": card["hash"],
            "seed": cell["seed"],
            "settings": record["settings"],
            "cameras": card["cameras"],
            "selection": card["selection"],
            "tuned": row_mark(card),
            "finished": record.get("finished"),
            "seconds": record.get("seconds"),
            "gpu_hours": _gpu_hours(record),
            "device": _device(record["environment"]),
            **_cost(record),
        }
        stages = record["stages"]
        for position, (stage, result) in enumerate(stages.items(), start=1):
            if not result["metrics"]:  # not evaluated
                continue
            rows.append(
                base
                | {"stage": stage, "final": position == len(stages)}
                | result["metrics"]
                | {key: result.get(key) for key in SPEEDS}
                | _phases(result)
            )
    return pd.DataFrame(rows)
