"""The store: one folder per run. Many processes may write to it, but only one to each folder.

results/runs/mskd-market1501-s0-1a2b3c4d/
    record.json            the results, written once, at the end; without it a run is unfinished
    config.json            the resolved configuration
    history.json           one row per epoch
    per_query.npz          average precision and first match of every query, by stage
    checkpoint.pt          to resume from, while unfinished
    checkpoint.previous.pt the one before it, in case it is damaged
    failed.json            the error, if one stopped the run
    log.txt                what the terminal showed, of every process that continued the run
    <stage>.pt             the network at the end of each stage
    <stage>_features.npz   features of the test images, with evaluation.keep_features=true
    evaluation-*.json      metrics by another evaluation protocol, from harness eval --save
    eval-*.json            metrics on another data set, from harness eval dataset=… --save
    .replacement/          the run that overwrite=always makes, until it is finished
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from harness.core.errors import ConfigError, DataError, HarnessError, did_you_mean
from harness.core.files import expanded, make_folder, read_json
from harness.core.hashing import settings_digest
from harness.core.metrics import METRICS
from harness.core.tuned import row_mark
from harness.results import schema, settings
from harness.results.schema import SCHEMA

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EXPERIMENT", "SCHEMA", "Run", "Store", "describe", "frame", "load", "trained_on"]
#: columns that identify an experiment. Two runs that agree in them are duplicates: tables count one
EXPERIMENT = ["method", "dataset", "data", "source_data", "protocol_hash", "settings", "seed"]
SPEEDS = ("images_per_second", "extract_images_per_second", "waiting", "cpu_share")
PHASES = ("extract", "label", "search", "jaccard", "cluster", "train", "test")
#: seconds to wait for a run's lock; status checks hold it for a moment only
LOCK, LOCK_TIMEOUT = ".lock", 2.0
#: folders inside a run's folder: of the run that is to replace it, unfinished and finished
REPLACEMENT, REPLACED = ".replacement", ".replacement-finished"
LOG = "log.txt"
REPLACE = "Run it again with overwrite=always."
#: errors of a JSON file that is missing, damaged or nested too deeply
UNREADABLE_JSON = (OSError, ValueError)


@dataclass(frozen=True)
class Run:
    """The folder of one experiment.

    known: its record, if another process has read and validated it.
    """

    folder: Path
    known: dict[str, Any] | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        """Whether it has a valid record."""
        return self.problem is None and bool(self._record)

    @cached_property
    def _record(self) -> dict[str, Any] | str:
        """The record, or what is wrong with it."""
        if self.known is not None:
            return self.known
        if (self.folder / REPLACED).is_dir():
            return "overwrite=always was interrupted while it replaced the files"
        try:
            raw = self._json("record.json")
        except FileNotFoundError:
            return {}
        except UNREADABLE_JSON as error:
            return f"record.json cannot be read ({error})"
        return schema.read(raw)

    def _json(self, name: str) -> Any:
        return read_json(self.folder / name)

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
        if isinstance(found := self._record, str):
            raise HarnessError(f"{self.folder}: {found}.", REPLACE)
        return found

    def config(self) -> dict[str, Any]:
        """The resolved configuration.

        Raises:
            HarnessError: the run has none, or not the one that its record was made with.
        """
        try:
            if not isinstance(found := self._json("config.json"), dict):
                raise ValueError("it is no object")
        except UNREADABLE_JSON as error:
            cause = f"{self.folder}: config.json cannot be read ({error})."
            raise HarnessError(cause, REPLACE) from error
        digest = settings_digest(found)
        if self.finished and self.record.get("config", digest) != digest:
            raise HarnessError(
                f"{self.folder}: config.json has changed since the record was made.",
                "Restore the file, or run the experiment again with overwrite=always.",
            )
        return found

    def complete_config(self) -> dict[str, Any]:
        """The resolved configuration, with all sections that a network is rebuilt from.

        Raises:
            HarnessError: it is missing or damaged. DataError: it is incomplete.
        """
        config = self.config()
        if problem := schema.config_problem(config):
            raise DataError(f"{self.folder}: {problem}.", REPLACE)
        return config

    def history(self) -> list[dict[str, Any]]:
        """One row per epoch; empty before the first.

        Raises:
            HarnessError: it is damaged.
        """
        try:
            rows: list[dict[str, Any]] = self._json("history.json")
            if problem := schema.history_problem(rows):
                raise ValueError(problem)
            return rows
        except FileNotFoundError:
            return []
        except UNREADABLE_JSON as error:
            cause = f"{self.folder}: history.json cannot be read ({error})."
            raise HarnessError(cause, REPLACE) from error

    def lock(self) -> FileLock:
        """The exclusive right to write here. The system releases it when the process dies.

        Raises:
            HarnessError: another process holds it, or the folder cannot be written.
        """
        make_folder(self.folder)
        lock = FileLock(self.folder / LOCK)
        try:
            lock.acquire(timeout=LOCK_TIMEOUT)
        except Timeout as error:
            hint = "Wait for it, or choose another seed or store."
            raise HarnessError(f"Another process is running {self.name}.", hint) from error
        except (OSError, NotImplementedError) as error:
            raise HarnessError(
                f"{self.folder} cannot be locked: {error}.",
                "The store needs a file system with locks (NFS: mounted with them): store=DIR.",
            ) from error
        return lock

    @property
    def running(self) -> bool:
        """Whether a process, on this machine or another, holds the lock."""
        path = self.folder / LOCK
        if not path.is_file():
            return False
        try:
            if sys.platform == "win32":
                with FileLock(path, timeout=0):
                    return False
            import fcntl  # not available on Windows

            with path.open("rb") as file:  # a reader may have no right to write
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # until the file is closed
        except (BlockingIOError, Timeout):
            return True
        except (OSError, NotImplementedError):  # unreadable, or a file system without locks
            return False
        return False


@dataclass(frozen=True)
class Store:
    """A folder of runs; `~` in it is a home folder."""

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", expanded(self.folder))

    def run(self, name: str) -> Run:
        """The run of this name, whether it exists or not."""
        return Run(self.folder / name)

    def runs(self) -> Iterator[Run]:
        """All runs, by name: folders with a configuration or a record."""
        for path in sorted(self.folder.glob("[!.]*")):
            if (path / "config.json").is_file() or (path / "record.json").is_file():
                yield Run(path)

    def find(self, name: str) -> Run:
        """A run by its folder, its name, or the beginning of its name if that is unique.

        Raises:
            ConfigError: no run fits, or more than one.
        """
        path = expanded(name)
        if (path / "config.json").is_file():
            # `.` and `..` have no name of their own
            return Run(path.resolve() if path.name in ("", "..") else path)
        names = [run.name for run in self.runs()]
        fitting = [name] if name in names else [n for n in names if n.startswith(name)]
        if len(fitting) == 1:
            return self.run(fitting[0])
        if fitting:
            more = ", …" if len(fitting) > 5 else ""
            raise ConfigError(f"'{name}' fits several runs: {', '.join(fitting[:5])}{more}.")
        hint = did_you_mean(name, names) or "The store is empty."
        raise ConfigError(f"There is no run '{name}' in {self.folder}.", hint)


def trained_on(record: Mapping[str, Any]) -> str:
    """What a run's network was trained on; with `init=RUN`, what that run was trained on first.

    A labeled source comes before the target; the target is left out if it was not trained on.
    """
    name = str(record["experiment"]["dataset"])
    source = record.get("source") or {}
    if settings.kind(settings.of_card(record["protocol"])) == settings.UDA and source:
        name = source["name"] if source.get("alone") else f"{source['name']} → {name}"
    before = (record.get("init") or {}).get("trained_on")
    if all(result.get("epoch") is None for result in record["stages"].values()):
        return str(before) if before else "–"
    return f"{before} → {name}" if before else name


def describe(run: Run) -> dict[str, Any]:
    """The columns of `frame` that all stages of a finished run share."""
    record = run.record
    experiment, card, data = record["experiment"], record["protocol"], record["dataset"]
    environment, peak = record["environment"], record.get("memory_mib", {})
    devices, on_cpu = record.get("devices", 1), environment.get("device") in (None, "CPU")
    hours = record.get("device_hours")
    hours = record["seconds"] * devices / 3600 if hours is None else hours
    return {
        "run": run.name, "method": experiment["method"], "dataset": experiment["dataset"],
        "data": data.get("fingerprint", "")[:8],
        "source_data": (record.get("source") or {}).get("fingerprint", "")[:8],
        "unlike": "; ".join(data.get("not_as_published") or []),
        "protocol": card["name"], "protocol_hash": card["hash"],
        "setting": settings.of_card(card), "seed": experiment["seed"],
        "settings": record["settings"], "cameras": card["cameras"], "selection": card["selection"],
        "tuned": row_mark(card), "finished": record.get("finished"), "seconds": record["seconds"],
        "gpu_hours": None if on_cpu else hours,
        "device": (environment.get("cpu") if on_cpu else None) or environment.get("device"),
        "devices": devices, "device_hours": hours,
        "memory_host": peak.get("host"), "memory_device": peak.get("device"),
    }  # fmt: skip


def load(store: str | Path = "results/runs") -> pd.DataFrame:
    """All finished runs of a store as a tidy table: see `frame`."""
    return frame(Store(Path(store)).runs())


def frame(runs: Iterable[Run]) -> pd.DataFrame:
    """Finished runs as a tidy table: one row per stage, and one for an untrained run.

    Columns: run, method, stage, final (whether it is the run's last stage), dataset, setting (USL,
    `UDA, source NAME` or supervised), data (fingerprint), source_data (that of the labeled source,
    '' without one), unlike (how the data differ from what was published, '' if they do not or
    nothing is known), protocol, protocol_hash, seed, settings (hash of everything but the seed),
    cameras, selection, tuned (the search that found the settings, '' if none), the metrics in
    percent, images_per_second, extract_images_per_second, waiting (the share of training time that
    the network waited for data), cpu_share (what other work left of the processor's time), seconds
    (of the whole run), gpu_hours (missing on a CPU), device, devices, device_hours, memory_host and
    memory_device (peak MiB), the seconds_… of the stage's phases: extract, label (with its parts
    search, jaccard, cluster), train, test, and finished (day). Values that a record lacks are
    missing. Damaged records are left out: see `Run.problem`.
    """
    import pandas as pd

    rows = []
    for run in runs:
        if not run.finished:
            continue
        base, stages = describe(run), run.record["stages"]
        for position, (stage, result) in enumerate(stages.items(), start=1):
            if not result["metrics"]:  # not evaluated
                continue
            seconds = (result.get("label_seconds") or {}) | (result.get("seconds") or {})
            row = base | {"stage": stage, "final": position == len(stages)}
            row |= dict.fromkeys(METRICS) | result["metrics"]
            row |= {key: result.get(key) for key in SPEEDS}
            rows.append(row | {f"seconds_{phase}": seconds.get(phase) for phase in PHASES})
    numbers = [*METRICS, *SPEEDS, "gpu_hours"]
    return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float)) if rows else pd.DataFrame()
