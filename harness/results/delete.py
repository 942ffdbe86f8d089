"""`harness rm RUN…`: delete runs, never one that is running."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from harness.core.errors import ConfigError, HarnessError, did_you_mean
from harness.results.run_status import state
from harness.results.store import Run, Store


def _matching(store: Store, patterns: Sequence[str]) -> list[Run]:
    """The runs that whole names and patterns (`mskd-*-s1-*`) match, by name.

    Beginnings of names are refused, as deletion is final.
    """
    runs = {run.name: run for run in store.runs()}
    found: set[str] = set()
    for pattern in patterns:
        fitting = {name for name in runs if name == pattern or fnmatchcase(name, pattern)}
        if not fitting:
            hint = did_you_mean(pattern, runs) or "The store is empty."
            raise ConfigError(f"There is no run '{pattern}' in {store.folder}.", hint)
        found |= fitting
    return [runs[name] for name in sorted(found)]


def remove(
    patterns: Sequence[str], store: str = "results/runs", yes: bool = False,
    ask: Callable[[str], str] = input,
) -> list[str]:  # fmt: skip
    """Delete the folders of runs after a confirmation, unless `yes`; return their names.

    Raises:
        ConfigError: a name that matches nothing, or no terminal to confirm at.
        HarnessError: one of them is running. The others are deleted.
    """
    folder = Store(Path(store))
    runs = _matching(folder, patterns)
    states = {run.name: state(run) for run in runs}
    for name, found in states.items():
        print(f"{name}   {found}")
    if not yes:
        if ask is input and not sys.stdin.isatty():
            raise ConfigError("Nothing was removed: no terminal to confirm at.", "Add --yes.")
        kinds = Counter(found.kind for found in states.values())
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        if ask(f"Remove these runs ({counts}) for good? [y/N] ").strip().lower() != "y":
            print("Nothing was removed.")
            return []
    removed, running = [], []
    for run in runs:
        try:
            _remove(run)
            removed.append(run.name)
        except HarnessError as error:
            if not run.running:
                cause = f"{run.name} was not removed: {error.cause}"
                hint = f"You need the right to write in {folder.folder}."
                raise HarnessError(cause, hint) from error
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
