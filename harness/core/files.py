"""Atomic writes: a file is written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import json
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from harness.core.errors import HarnessError

OTHER_FOLDER = (
    "Choose another folder: store= for runs, data.root= for data sets, data.cache_dir= for image "
    "caches, --output for other files."
)
#: levels of a JSON file that is read; the harness writes fewer than ten
DEEPEST = 64
#: characters of a path in a message
LONGEST = 300


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into errors that name the folder and give a hint."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch.save raises a RuntimeError while it handles the refusal of the system
        refusal = error if isinstance(error, OSError) else error.__context__
        if not isinstance(refusal, OSError):
            raise
        reason = refusal.strerror or refusal
        if refusal.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HarnessError(
                f"The disk that contains {path.parent} is full: {reason}.",
                f"Free some space and repeat the command to continue. {OTHER_FOLDER}",
            ) from error
        if refusal.errno == errno.EFBIG:
            raise HarnessError(
                f"{path.name} in {path.parent} is larger than a file may be here.",
                "Raise the limit and repeat the command to continue: ulimit -f unlimited. A "
                "scheduler or the file system may have a limit of its own.",
            ) from error
        raise HarnessError(
            f"{shown(path.parent)} cannot be written: {reason}.", OTHER_FOLDER
        ) from error


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with `~` and `~USER` as home folders; that of an unknown user stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path's own raises for unknown users)


def shown(path: str | Path) -> str:
    """A path for a message; the middle of a very long one is left out."""
    text = str(path)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 4 :]}"


def check_archive(path: Path) -> None:
    """Verify the checksums of a zip archive, which torch.save writes, too. Other files pass.

    Raises OSError: it cannot be read. zipfile.BadZipFile: it is damaged.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (member := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"wrong checksum of {member}")


def read_json(path: Path, **hooks: Any) -> Any:
    """The content of a JSON file; `hooks` are those of `json.loads`.

    Raises:
        OSError: it cannot be read. ValueError: it is no JSON, or nested too deeply.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), **hooks)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    nodes = [content]
    for _ in range(DEEPEST):  # code that walks through it is recursive
        nodes = [
            inner
            for node in nodes
            if isinstance(node, dict | list)
            for inner in (node.values() if isinstance(node, dict) else node)
        ]
        if not nodes:
            return content
    raise ValueError("it is nested too deeply")


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
    """Write UTF-8 text atomically. Bytes of file names that are not UTF-8 are escaped (`\\udcff`),
    as JSON does.
    """
    write_atomically(path, lambda file: file.write(text.encode(errors="backslashreplace")))


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
    # a file without a name: a killed process leaves nothing
    with explain_write_errors(path / "_"), TemporaryFile(dir=nearest_existing(path)) as probe:
        probe.write(b".")


def nearest_existing(path: Path) -> Path:
    """A path, or the first of its parents that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
