"""All files of a folder, through links to folders, too; each folder once."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from harness.data.prepare.layouts import IGNORED


@dataclass
class Files:
    """The content of a folder. Names have forward slashes and are relative to it.

    found: files, sorted. skipped: names of everything else, each with the reason.
    """

    found: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def walk(folder: Path) -> Files:
    """List all files but hidden ones.

    A folder that several names lead to is listed once, under a name without links if there is one:
    its images would be in the data twice. So links cannot form cycles, either.
    """
    files = Files()
    top = os.path.realpath(folder)
    seen = {top}
    folders, links = [""], list[str]()
    while folders or links:
        inner = folders.pop() if folders else links.pop(0)
        if inner:
            real = os.path.realpath(folder / inner)
            if real in seen or top.startswith(real.rstrip(os.sep) + os.sep):
                files.skipped.append(f"{inner}/ (a link to a folder that is listed already)")
                continue
            seen.add(real)
        try:
            with os.scandir(folder / inner) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            files.skipped.append(f"{inner or folder}/ ({error.strerror})")
            continue
        for entry in listed:
            name = f"{inner}/{entry.name}" if inner else entry.name
            kind, slash = _kind(entry), "/" if _kind(entry) == "folder" else ""
            if entry.name.startswith(".") or entry.name in IGNORED:
                files.skipped.append(f"{name}{slash} (hidden)")
            elif not _is_text(entry.name):
                files.skipped.append(f"{name!a}{slash} (its name is not UTF-8)")
            elif kind == "folder":
                (links if entry.is_symlink() else folders).append(name)
            elif kind == "file":
                files.found.append(name)
            else:
                files.skipped.append(f"{name} ({kind})")
    files.found.sort()
    return files


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "a broken link"
    except OSError as error:  # links in a circle
        return str(error.strerror)


def _is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8; others hold bytes that Python could not decode."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
