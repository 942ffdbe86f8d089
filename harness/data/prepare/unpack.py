"""Unpacking of a source's files to where loaders look for them. Each file appears whole or not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from harness.core.errors import DataError, HarnessError
from harness.core.files import explain_write_errors
from harness.data.decoding import Progress
from harness.data.prepare.archives import Member, Source, check_sizes, explain_damage
from harness.data.prepare.layouts import FoundLayout

MARGIN = 1 << 30  # bytes that must stay free on the disk


def unpack(
    source: Source, members: list[Member], found: FoundLayout, root: Path, progress: Progress,
    allow_empty: bool = False,
) -> tuple[int, int]:  # fmt: skip
    """Copy the files of a layout to the data root; returns how many, and how many existed.

    An interrupted call can be repeated: files that exist with the expected size are not written
    again, as each is written under a temporary name first.

    Raises:
        DataError: files are empty or too large, or the source is damaged.
        HarnessError: the disk is full or not writable.
    """
    sizes = {member.name: member.size for member in members if member.name in found.targets}
    check_sizes(source.path, sizes, allow_empty)
    existing = {n for n, size in sizes.items() if _exists(root / found.targets[n], size)}
    todo = {name: size for name, size in sizes.items() if name not in existing}
    _check_space(root, sum(todo.values()), source.path)
    with explain_damage(source.path):  # checksums are verified when the last bytes are read
        for count, (name, file) in enumerate(source.read(todo), start=1):
            _write(root / found.targets[name], file.read, todo[name], source.path / name)
            progress(len(existing) + count, len(sizes))
    return len(todo), len(existing)


def in_place(source: Path, found: FoundLayout, root: Path) -> bool:
    """Whether a source folder has its files at their targets already."""
    if not source.is_dir():
        return False
    member, target = next(iter(found.targets.items()))
    return (source / member).resolve() == (root / target).resolve()


def _exists(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False


def _write(path: Path, read: Callable[[int], bytes], size: int, member: Path) -> None:
    """Write one file, which must have the size listed in the index."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with explain_write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            left = size
            with temporary.open("wb") as file:
                while chunk := read(min(left + 1, 1 << 20)):
                    left -= len(chunk)
                    file.write(chunk)
                    if left < 0:
                        break
            if left:
                problem = f"{member} does not have the {size:,} bytes that its index lists."
                raise DataError(problem, "It is damaged or was cut off: get it again.")
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_space(root: Path, size: int, source: Path) -> None:
    existing = next(folder for folder in (root, *root.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if size and free < size + MARGIN:
        raise HarnessError(
            f"Unpacking {source} needs {size / 1e9:.1f} GB; {root} has {free / 1e9:.1f} GB free.",
            "Free some space, or choose another folder with data.root=.",
        )
