"""The runs of a folder, read quickly where there are many: a cache of their records.

`.index.json` holds what stood in each record.json together with its time, size and inode; an entry
counts only if all three are still the same, and none is kept of a file that is younger than clocks
can tell apart. So the index cannot be stale; it may be missing, damaged or another writer's, and
then costs time only. Small stores have none.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.core.errors import HarnessError
from harness.core.files import write_atomically
from harness.results.store import Run

NAME = ".index.json"
#: fewer runs than this are read one by one
LEAST = 500
#: seconds in which a file may be written twice and have one time
COARSE = 2.0

Entry = tuple[list[int], dict[str, Any]]


def runs(folder: Path) -> Iterator[Run]:
    """All cells, by name: folders with a configuration or a record."""
    if not folder.is_dir():
        return
    names = sorted(name for name in os.listdir(folder) if not name.startswith("."))  # noqa: PTH208
    if len(names) < LEAST:
        for path in (folder / name for name in names):
            if (path / "config.json").is_file() or (path / "record.json").is_file():
                yield Run(path)
        return
    old = _read(folder)
    new: dict[str, Entry] = {}
    added = 0
    for name in names:
        place = f"{folder}/{name}"
        try:
            sign = mark(os.stat(f"{place}/record.json"))  # noqa: PTH116 (ten thousand of them)
        except OSError:
            if os.path.isfile(f"{place}/config.json"):  # noqa: PTH113
                yield Run(Path(place))
            continue
        entry = old.get(name)
        if entry is None or entry[0] != sign:
            entry = _entry(f"{place}/record.json")
            added += 1
        if entry is not None:
            new[name] = entry
        yield Run(Path(place), None if entry is None else entry[1])
    if (added + len(old.keys() - new.keys())) * 20 > len(new):  # less is as quickly read
        _write(folder, new)


def mark(status: os.stat_result) -> list[int]:
    """What tells one state of a file from another."""
    return [status.st_mtime_ns, status.st_size, status.st_ino]


def is_settled(status: os.stat_result) -> bool:
    """Whether a file is older than clocks can be wrong by: its next state will show."""
    return status.st_mtime < time.time() - COARSE


def _entry(path: str) -> Entry | None:
    """A record as it stands there; None if it does not read: the run itself says why."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            sign = mark(os.fstat(file.fileno()))
            raw = json.load(file)
    except (OSError, ValueError, RecursionError):
        return None
    return (sign, raw) if isinstance(raw, dict) else None


def _read(folder: Path) -> dict[str, Entry]:
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return {
            str(name): (sign, raw)
            for name, (sign, raw) in found.items()
            if isinstance(sign, list) and isinstance(raw, dict)
        }
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return {}


def _write(folder: Path, entries: dict[str, Entry]) -> None:
    """Others' runs are looked at, too: a folder that cannot be written has no index."""
    with suppress(OSError, HarnessError):
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".tmp") as probe:
            now = os.fstat(probe.fileno()).st_mtime_ns  # by the file system's own clock
        kept = {n: e for n, e in entries.items() if e[0][0] < now - COARSE * 1e9}
        text = json.dumps(kept, separators=(",", ":"), ensure_ascii=False)
        write_atomically(folder / NAME, lambda file: file.write(text.encode()))
