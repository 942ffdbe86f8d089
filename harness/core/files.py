"""Files that are either whole or not there: every write goes to a temporary name first."""

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


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn the system's refusals into errors that name the folder and the hint."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if isinstance(error, RuntimeError):
            full = _nearly_full(path)
            if not full:
                raise
        if full:
            raise HarnessError(
                f"The disk that holds {path.parent} is full.",
                "Free some space and give the same command again: it goes on from its last "
                "checkpoint. Or choose another place with store=.",
            ) from error
        raise HarnessError(
            f"{path.parent} cannot be written: {getattr(error, 'strerror', None) or error}.",
            "Choose another place (store= for runs, data.cache_dir= for image image_caches).",
        ) from error


def _nearly_full(path: Path) -> bool:
    return shutil.disk_usage(path.parent).free < 512 * 2**20


def _own() -> str:
    """A word that no other writer has, be it on another machine that shares the file system."""
    return f"{os.getpid()}-{uuid.uuid4().hex[:8]}"


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a file that then takes the place of `path` in one step.

    Raises:
        HarnessError: the folder cannot be written, or the disk is full. What was there stays.
    """
    temporary = path.with_name(f"{path.name}.{_own()}.tmp")
    try:
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())  # the new name must never stand on an empty file
            temporary.replace(path)
    finally:
        with suppress(OSError):  # gone already, or its folder never came to be
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented, without NaN (which is not JSON)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def make_folder(path: Path) -> None:
    """Make a folder that can be written to.

    Raises:
        HarnessError: it cannot be made or written, or the disk is full.
    """
    probe = path / f".{_own()}.tmp"
    try:
        with _explained(probe):
            path.mkdir(parents=True, exist_ok=True)
            probe.write_bytes(b".")
    finally:
        with suppress(OSError):
            probe.unlink()
