"""Atomic writes: a file is written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from harness.core.errors import HarnessError

OTHER_FOLDER = (
    "Choose another folder: store= for runs, data.root= for data sets, data.cache_dir= for image "
    "caches."
)


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into errors that name the folder and give a hint."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError):  # torch.save reports a full disk like this
            if not (full := _nearly_full(path)):
                raise
        else:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full:
            raise HarnessError(
                f"The disk that contains {path.parent} is full.",
                f"Free some space and repeat the command to continue. {OTHER_FOLDER}",
            ) from error
        reason = getattr(error, "strerror", None) or error
        raise HarnessError(f"{path.parent} cannot be written: {reason}.", OTHER_FOLDER) from error


def _nearly_full(path: Path) -> bool:
    return shutil.disk_usage(path.parent).free < 512 * 2**20


def _unique_suffix() -> str:
    """A suffix that no other process uses, not even on another machine with the same disk."""
    return f"{os.getpid()}-{uuid.uuid4().hex[:8]}"


def write_atomically(
    path: Path, write: Callable[[IO[bytes]], Any], previous: Path | None = None
) -> None:
    """Replace a file in one step by what `write` writes to the given stream.

    previous: where the old file is kept; between two renames, it is there alone.

    Raises HarnessError if the folder is not writable or the disk is full; the old file is kept.
    """
    temporary = path.with_name(f"{path.name}.{_unique_suffix()}.tmp")
    try:
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())  # so that a crash never leaves an empty file
            if previous is not None and path.is_file():
                path.replace(previous)
            temporary.replace(path)
    finally:
        with suppress(OSError):  # already renamed, or never created
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically. NaN is refused: it is not valid JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def make_folder(path: Path) -> None:
    """Make a folder and check that it is writable.

    Raises HarnessError if it cannot be made or written, or the disk is full.
    """
    with explain_write_errors(path / "_"):
        path.mkdir(parents=True, exist_ok=True)
    check_writable(path)


def check_writable(path: Path) -> None:
    """Check that a folder is writable, or can be made. Makes nothing.

    Raises HarnessError if not, or if the disk is full.
    """
    probe = nearest_existing(path) / f".{_unique_suffix()}.tmp"
    try:
        with explain_write_errors(path / "_"):
            probe.write_bytes(b".")
    finally:
        with suppress(OSError):
            probe.unlink()


def nearest_existing(path: Path) -> Path:
    """A path, or the first of its parents that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
