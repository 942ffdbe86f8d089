"""Changes to a submission, with submission.json made anew, as a forger would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.hashing import card_hash, settings_digest
from harness.experiment.plan import settings_hash
from harness.experiment.submissions.untrusted import digest
from harness.experiment.submissions.verdict import Verdict


def run_of(folder: Path) -> Path:
    """The folder of a submission's first run."""
    return min(path for path in folder.iterdir() if path.is_dir())


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_arrays(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change the arrays of an .npz file."""
    with np.load(path) as content:
        arrays = {key: content[key] for key in content.files}
    change(arrays)
    np.savez(path, **arrays)


def seal(folder: Path) -> Path:
    """Write the sizes and digests of all files into submission.json."""

    def renew(manifest: Any) -> None:
        files = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
        manifest["files"] = {
            path.relative_to(folder).as_posix(): {
                "size": path.stat().st_size,
                "sha256": digest(path),
            }
            for path in files
        }

    edit(folder / "submission.json", renew)
    return folder


def seal_config(folder: Path) -> None:
    """Write the digest and hash of config.json into the record."""
    run = run_of(folder)
    config = json.loads((run / "config.json").read_text())
    edit(
        run / "record.json",
        lambda r: r.update(config=settings_digest(config), settings=settings_hash(config)),
    )


def edit_card(folder: Path, **changes: object) -> None:
    """Change lines of the record's card, with its hash."""

    def change(record: Any) -> None:
        card = record["protocol"]
        card.update(changes)
        card["hash"] = card_hash(card)

    edit(run_of(folder) / "record.json", change)


def outcomes(verdict: Verdict) -> dict[str, str]:
    """Check → its outcome, the worst of all runs."""
    order = ("ok", "unknown", "FAILED")
    found: dict[str, str] = {}
    for check in verdict.checks:
        found[check.name] = max(found.get(check.name, "ok"), check.outcome, key=order.index)
    return found


def failures(verdict: Verdict) -> set[str]:
    """The names of failed checks."""
    return {name for name, outcome in outcomes(verdict).items() if outcome == "FAILED"}


def reason(verdict: Verdict, name: str) -> str:
    """Why a check failed."""
    return next(c.reason for c in verdict.checks if c.name == name and c.outcome == "FAILED")
