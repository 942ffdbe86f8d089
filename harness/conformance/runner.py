"""Runs the golden cases of a folder and prints their results."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from harness.conformance import (
    cameras,
    dcmip,
    labels,
    memories,
    mmt,
    mskd,
    online_proxies,
    schedules,
)
from harness.conformance.cases import CASES, Check, Vectors
from harness.core.errors import ConfigError
from harness.core.paths import shipped

#: importing a module registers its cases
MODULES = (cameras, dcmip, labels, memories, mmt, mskd, online_proxies, schedules)


def golden_folder() -> Path:
    """The vectors of the checkout or of the installed wheel."""
    return shipped("tests/golden", "")


def verify(folder: Path | None = None) -> Iterator[tuple[str, list[Check]]]:
    """Run all cases of a folder; yields each case's name and checks.

    A damaged file or a missing array is a failed check.

    Raises:
        ConfigError: the folder does not exist or has no known vectors.
    """
    folder = folder or golden_folder()
    known = [name for name in sorted(CASES) if (folder / f"{name}.npz").is_file()]
    if not known:
        raise ConfigError(
            f"{folder} has no known vectors.",
            f"Expected files: {', '.join(f'{name}.npz' for name in sorted(CASES))}.",
        )
    for name in known:
        checks: list[Check] = []
        try:
            checks.extend(CASES[name](Vectors(folder / f"{name}.npz")))
        except Exception as error:  # damaged files raise anything from BadZipFile to IndexError
            text = f"cannot be checked: {type(error).__name__}: {error}"
            checks.append(Check(text, float("nan"), 0.0))
        yield name, checks


def show(folder: str | None = None) -> bool:
    """Print one row per case and tolerance, and all failures. Returns whether all passed."""
    grid = Table("Case", "Checks", "Largest error", "Tolerance", "")
    count, failed = 0, list[str]()
    for name, checks in verify(Path(folder) if folder else None):
        count += len(checks)
        failed += [f"{name}: {check.quantity}" for check in checks if not check.passed]
        ordered = sorted(checks, key=lambda check: check.tolerance)
        for tolerance, group in groupby(ordered, key=lambda check: check.tolerance):
            same = list(group)
            error = max(check.error for check in same)
            grid.add_row(
                name, str(len(same)), f"{error:.1e}" if error else "0",
                f"{tolerance:.0e}" if tolerance else "equal",
                "[green]ok[/]" if all(c.passed for c in same) else "[bold red]FAILED[/]",
            )  # fmt: skip
    console = Console(highlight=False)
    console.print(grid)
    if failed:
        console.print(f"{len(failed)} of {count} checks failed:", style="bold red")
        for line in failed:
            console.print(f"  {line}", markup=False, soft_wrap=True)
    else:
        console.print(f"{count} checks, all passed.")
    return not failed
