"""Putting the files of a source where loaders look for them: whole or not at all, once."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

from harness.core.errors import DataError, HarnessError
from harness.data.prepare.archives import Member, Source, check_sizes, explained
from harness.data.prepare.layouts import Find

Progress = Callable[[int, int], None]
MARGIN = 1 << 30  # bytes that a disk keeps free


def unpack(
    source: Source, members: list[Member], find: Find, root: Path, progress: Progress
) -> tuple[int, int]:
    """Copy what a layout needs to its place under the data root. Killed at any moment, the next
    call goes on: files that are there with the size of their member are not written again, as each
    is written under another name first.

    Returns:
        How many files were written, and how many were there.

    Raises:
        DataError: files that are empty or too large, or damage.
        HarnessError: the disk is full or cannot be written.
    """
    sizes = {member.name: member.size for member in members if member.name in find.placed}
    check_sizes(source.path, sizes)
    todo = {
        name: size for name, size in sizes.items() if not _there(root / find.placed[name], size)
    }
    _need(root, sum(todo.values()), source.path)
    done = len(sizes) - len(todo)
    with explained(source.path):  # checksums are compared as the last bytes are read
        for count, (name, file) in enumerate(source.read(todo), start=1):
            _write(root / find.placed[name], file.read, todo[name], source.path / name)
            progress(done + count, len(sizes))
    return len(todo), done


def in_place(source: Path, find: Find, root: Path) -> bool:
    """Whether a folder holds the files where they are wanted already."""
    if not source.is_dir():
        return False
    member, target = next(iter(find.placed.items()))
    return (source / member).resolve() == (root / target).resolve()


def _there(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _write(path: Path, read: Callable[[int], bytes], size: int, member: Path) -> None:
    """One file, never longer than its index says."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        left = size
        with temporary.open("wb") as file:
            while chunk := read(min(left + 1, 1 << 20)):
                left -= len(chunk)
                if left < 0:
                    raise DataError(
                        f"{member} is larger than its archive says.", "The archive is damaged."
                    )
                file.write(chunk)
        if left:
            raise DataError(
                f"{member} is {size - left:,} bytes long, not {size:,}.",
                "It was cut off: get it again.",
            )
        temporary.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HarnessError(
                f"The disk of {path.parent} became full.",
                "Free some space and give the same command again: it goes on.",
            ) from error
        raise HarnessError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Choose another place with data.root=.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _need(root: Path, size: int, source: Path) -> None:
    """Refuse to begin what the disk cannot hold."""
    place = root
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size and free < size + MARGIN:
        raise HarnessError(
            f"Unpacking {source} takes {size / 1e9:.1f} GB; {root} has {free / 1e9:.1f} GB free.",
            "Free some space, or choose another place with data.root=.",
        )
