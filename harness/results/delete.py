"""`harness rm RUN…`: delete runs, never one that is running."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from harness.core.errors import ConfigError, HarnessError, did_you_mean
from harness.results.run_status import state
from harness.results.store import Run, Store


def matching(store: Store, patterns: Sequence[str]) -> list[Run]:
    """The runs that whole names and patterns (`mskd-*-s1-*`) match, by name.

    Raises:
        ConfigError: one matches nothing. Beginnings of names are refused, as deletion is final.
    """
    runs = {run.name: run for run in store.runs()}
    found: set[str] = set()
    for pattern in patterns:
        fitting = {name for name in runs if name == pattern or fnmatchcase(name, pattern)}
        if not fitting:
            hint = did_you_mean(pattern, runs) or "The store is empty."
            if begun := sorted(name for name in runs if name.startswith(pattern)):
                hint = f"Give the whole name ({begun[0]}), or '{pattern}*'."
            raise ConfigError(f"There is no run '{pattern}' in {store.folder}.", hint)
        found |= fitting
    return [runs[name] for name in sorted(found)]


def remove(
    patterns: Sequence[str],
    store: str = "results/runs",
    yes: bool = False,
    ask: Callable[[str], str] = input,
) -> list[str]:
    """Delete the folders of runs after a confirmation, unless `yes`.

    Returns:
        The names of the deleted runs.

    Raises:
        ConfigError: a name that matches nothing, or no terminal to confirm at.
        HarnessError: one of them is running. The others are deleted.
    """
    folder = Store(Path(store))
    runs = matching(folder, patterns)
    kinds: Counter[str] = Counter()
    for run in runs:
        found = state(run)
        kinds[found.kind] += 1
        print(f"{run.name}   {found}")
    for line in _dependants(folder, {run.name for run in runs}):
        print(line)
    if not yes:
        if ask is input and not sys.stdin.isatty():
            raise ConfigError(
                "Nothing was removed: there is no terminal to confirm at.", "Add --yes."
            )
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        runs_word = f"{len(runs)} run{'s' if len(runs) > 1 else ''}"
        if ask(f"Remove {runs_word} ({counts}) for good? [y/N] ").strip().lower() != "y":
            print("Nothing was removed.")
            return []
    removed, running = [], []
    for run in runs:
        try:
            _remove(run)
            removed.append(run.name)
        except HarnessError:
            if not run.running:
                raise
            running.append(run.name)
    print(f"Removed {len(removed)}.")
    if running:
        raise HarnessError(
            f"{', '.join(running)}: running, and not removed.", "Stop it first, or wait for it."
        )
    return removed


def _remove(run: Run) -> None:
    """Rename the folder under its lock, then delete it: readers never see half a run."""
    lock = run.lock()
    try:
        hidden = run.folder.with_name(f".removed-{run.name}")
        shutil.rmtree(hidden, ignore_errors=True)  # left by a removal that was killed
        run.folder.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        raise ConfigError(f"{run.folder} cannot be removed: {error.strerror or error}.") from error
    finally:
        lock.release()


def _dependants(store: Store, names: set[str]) -> Iterable[str]:
    """Notes on other runs whose teacher is among those to be deleted."""
    for run in store.runs():
        if run.name in names:
            continue
        try:
            teachers = run.config().get("teachers")
        except HarnessError:
            continue
        for described in teachers.values() if isinstance(teachers, dict) else ():
            if (teacher := str(described).split(" ")[0]) in names:
                yield f"note: {run.name} was taught by {teacher}"
