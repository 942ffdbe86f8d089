"""`harness rm RUN…`: runs go, one by one, never one that is running."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from harness.core.errors import ConfigError, HarnessError, did_you_mean
from harness.results.row_labels import config_or_none
from harness.results.run_status import State, state
from harness.results.store import Run, Store


def chosen(store: Store, patterns: Sequence[str]) -> list[Run]:
    """The runs that names and patterns (`mskd-*-s1-*`) mean, by name.

    Raises:
        ConfigError: one that fits nothing. Beginnings of names are not enough: what goes is gone.
    """
    runs = {run.name: run for run in store.runs()}
    found: dict[str, Run] = {}
    for pattern in patterns:
        fitting = [name for name in runs if name == pattern or fnmatchcase(name, pattern)]
        if not fitting:
            begun = sorted(name for name in runs if name.startswith(pattern))
            hint = did_you_mean(pattern, runs) or "The store is empty."
            if begun:  # what goes is gone: a beginning alone is not enough
                hint = f"Give the whole name ({begun[0]}), or '{pattern}*'."
            raise ConfigError(f"There is no run '{pattern}' in {store.folder}.", hint)
        found |= {name: runs[name] for name in fitting}
    return [found[name] for name in sorted(found)]


def remove(
    patterns: Sequence[str],
    store: str = "results/runs",
    yes: bool = False,
    ask: Callable[[str], str] = input,
) -> list[str]:
    """Remove runs with all that lies in their folders; asks first, unless `yes`.

    Returns:
        The names of those that went.

    Raises:
        ConfigError: a name that fits nothing, or nobody there to be asked.
        HarnessError: one of them is running. The others are gone.
    """
    folder = Store(Path(store))
    runs = chosen(folder, patterns)
    states = {run.name: state(run) for run in runs}
    for name, found in states.items():
        print(f"{name}   {found}")
    for line in _needed(folder, {run.name for run in runs}):
        print(line)
    if not yes:
        if ask is input and not sys.stdin.isatty():
            raise ConfigError("Nothing was removed: nobody is there to be asked.", "Add --yes.")
        if ask(f"Remove {_count(states.values())} for good? [y/N] ").strip().lower() != "y":
            print("Nothing was removed.")
            return []
    removed, running = [], []
    for run in runs:
        try:
            _remove(run)
            removed.append(run.name)
        except HarnessError:
            running.append(run.name)
    print(f"Removed {len(removed)}.")
    if running:
        raise HarnessError(
            f"{', '.join(running)}: running, and not removed.", "Stop it first, or wait for it."
        )
    return removed


def _remove(run: Run) -> None:
    """Under its lock, and first by another name: nobody sees half a run."""
    lock = run.lock()
    try:
        hidden = run.folder.with_name(f".removed-{run.name}")
        shutil.rmtree(hidden, ignore_errors=True)  # what an earlier removal left, if it was killed
        run.folder.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        raise ConfigError(f"{run.folder} cannot be removed: {error.strerror or error}.") from error
    finally:
        lock.release()


def _needed(store: Store, names: set[str]) -> Iterable[str]:
    """Which of them other runs took their teacher from."""
    for run in store.runs():
        if run.name in names:
            continue
        teachers = (config_or_none(run.folder) or {}).get("teachers") or {}
        for described in teachers.values() if isinstance(teachers, dict) else ():
            if (teacher := str(described).split(" ")[0]) in names:
                yield f"note: {run.name} was taught by {teacher}"


def _count(states: Iterable[State]) -> str:
    kinds = [found.kind for found in states]
    parts = [f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds))]
    return f"{len(kinds)} run{'s' if len(kinds) > 1 else ''} ({', '.join(parts)})"
