"""The store: one folder a cell. Safe with many writers: a folder has one owner at a time.

results/runs/mskd-market1501-s0-1a2b3c4d/
    record.json      what came out: written once, last; a folder without it is unfinished
    config.json      the resolved configuration
    history.json     one row an epoch
    per_query.npz    average precision and first match of every query, by stage
    checkpoint.pt    to resume from, while unfinished
    <stage>.pt       the network at the end of each stage
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from harness.errors import ConfigError, HarnessError, did_you_mean
from harness.files import make_folder
from harness.tuned import row_mark

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
METRICS = ("mAP", "rank1", "rank5", "rank10", "mINP")
#: section of a record → what tables need of it
NEEDED = {
    "cell": ("method", "dataset", "seed"),
    "protocol": ("name", "hash", "cameras", "selection"),
    "metrics": METRICS,
}


@dataclass(frozen=True)
class Run:
    """One cell's folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        """Whether it has a record that reads and is of this schema."""
        return self.problem is None and (self.folder / "record.json").is_file()

    @cached_property
    def _record(self) -> dict[str, Any] | str:
        """The record, or what is wrong with it."""
        try:
            record = json.loads((self.folder / "record.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            return f"record.json cannot be read ({error})"
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            return "record.json is of another schema"
        missing = list(_missing(record))
        return f"record.json lacks {', '.join(missing)}" if missing else record

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
            raise HarnessError(f"{self.folder}: {self._record}.", "Run it again with force=true.")
        return self._record

    def config(self) -> dict[str, Any]:
        """The resolved configuration.

        Raises:
            HarnessError: the run has none.
        """
        try:
            return json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise HarnessError(f"{self.folder} has no readable config.json.") from error

    def history(self) -> list[dict[str, Any]]:
        """One row an epoch; empty before the first.

        Raises:
            HarnessError: it is damaged.
        """
        try:
            return json.loads((self.folder / "history.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise HarnessError(
                f"{self.folder}: history.json cannot be read ({error}).",
                "Run it again with force=true.",
            ) from error

    def lock(self) -> FileLock:
        """The right to write here; let go by the system when the process dies.

        Raises:
            HarnessError: another process has it, or the folder cannot be written.
        """
        make_folder(self.folder)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise HarnessError(
                f"Another process is running {self.name}.",
                "Wait for it, or choose another seed or store.",
            ) from error
        return lock


def _missing(record: dict[str, Any]) -> Iterator[str]:
    """What tables need of a record and it does not have. Of data without a test part there are no
    metrics.
    """
    needed = NEEDED if record.get("evaluated", True) else NEEDED | {"metrics": ()}
    for section, keys in needed.items():
        inner = record.get(section)
        if not isinstance(inner, dict):
            yield section
        else:
            yield from (f"{section}.{key}" for key in keys if key not in inner)
    if "settings" not in record:
        yield "settings"
    stages = record.get("stages")
    if not isinstance(stages, dict) or not stages:
        yield "stages"
        return
    for name, stage in stages.items():
        metrics = stage.get("metrics") if isinstance(stage, dict) else None
        for key in needed["metrics"]:
            if not isinstance(metrics, dict) or not isinstance(metrics.get(key), int | float):
                yield f"stages.{name}.metrics.{key}"


@dataclass(frozen=True)
class Store:
    """A folder of runs."""

    folder: Path

    def run(self, name: str) -> Run:
        """The folder of one cell, there or not."""
        return Run(self.folder / name)

    def runs(self) -> Iterator[Run]:
        """All cells, by name."""
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                if (path / "config.json").is_file() or (path / "record.json").is_file():
                    yield Run(path)

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


def load(store: str | Path = "results/runs") -> pd.DataFrame:
    """All finished runs as a tidy table: one row a stage of a run (and one for untrained runs).

    Columns: run, method, stage, final (whether it is the run's last stage), dataset, data
    (fingerprint), unlike (how they differ from what was published, '' if they do not or nothing is
    known), protocol, protocol_hash, seed, settings (hash of all but the seed), cameras, selection, tuned (the search
    that its settings come from, '' if none), the metrics in percent, images_per_second, seconds, device. Damaged records are left out; `Run.problem` tells
    of them.
    """
    import pandas as pd

    rows = []
    for run in Store(Path(store)).runs():
        if not run.finished:
            continue
        record = run.record
        cell, card = record["cell"], record["protocol"]
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
            "device": _device(record.get("environment", {})),
        }
        stages = record["stages"]
        for position, (stage, result) in enumerate(stages.items(), start=1):
            if not result["metrics"]:  # not evaluated
                continue
            rows.append(
                base
                | {"stage": stage, "final": position == len(stages)}
                | result["metrics"]
                | {"images_per_second": result.get("images_per_second")}
            )
    return pd.DataFrame(rows)
