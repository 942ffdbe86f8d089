"""Where image caches are: beside the data, or in the user's cache folder if data are read-only."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from harness.core.errors import say_once
from harness.core.files import expanded, nearest_existing


def cache_folder(root: str | Path, given: str | Path | None) -> Path:
    """The folder of image caches for a data root: `given`, which is never replaced, if there is
    one; else ROOT/.harness; else, if that cannot be written, the user's cache folder.

    Image caches that others have built in a read-only ROOT/.harness are linked there.
    """
    if given:
        return expanded(str(given))
    beside = expanded(str(root)) / ".harness"
    if _is_writable(beside):
        return beside
    user = _user_folder()
    say_once(f"{beside} cannot be written: image caches are in {user} (HARNESS_CACHE=DIR).")
    with suppress(OSError):  # without links they are built again
        user.mkdir(parents=True, exist_ok=True)
        for path in beside.iterdir():
            link = user / path.name
            if path.is_file() and path.suffix not in (".tmp", ".lock") and not link.exists():
                link.unlink(missing_ok=True)  # one whose target is gone
                link.symlink_to(path.absolute())
    return user


def _user_folder() -> Path:
    if chosen := os.environ.get("HARNESS_CACHE"):
        return expanded(chosen)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "harness"


def _is_writable(folder: Path) -> bool:
    """Whether a folder can be written, or made; nothing is made, since data may be missing."""
    existing = nearest_existing(folder)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
