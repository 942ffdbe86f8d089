"""Files: those that submission.json names, unchanged, and nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.core.arrays import read_queries
from harness.experiment.submissions.layout import (
    CONFIG,
    FEATURES,
    HISTORY,
    LARGEST_SUBMISSION,
    MANIFEST,
    MOST_FILES,
    MOST_RUNS,
    NAME,
    QUERIES,
    RECORD,
    REQUIRED,
    Manifest,
    largest,
    read_manifest,
)
from harness.experiment.submissions.private import private_places
from harness.experiment.submissions.untrusted import (
    check_npz,
    digest,
    quoted,
    read_strict,
    regular_size,
)

FAULTS = (OSError, ValueError)


def list_files(folder: Path) -> tuple[dict[str, int], list[str]]:
    """The files of a submission as path → bytes, and what should not be there. Links are never
    followed, and folders with too much in them not read to the end.
    """
    found: dict[str, int] = {}
    problems: list[str] = []
    for entry in _entries(folder, MOST_RUNS + 1, problems):
        mode = entry.stat(follow_symlinks=False).st_mode
        name = quoted(entry.name)
        if stat.S_ISREG(mode) and entry.name == MANIFEST:
            found[MANIFEST] = entry.stat(follow_symlinks=False).st_size
        elif not stat.S_ISDIR(mode):
            kind = "a link" if stat.S_ISLNK(mode) else "not a file of a submission"
            problems.append(f"{name} is {kind}")
        elif not NAME.fullmatch(entry.name):
            problems.append(f"{name} is no name of a run")
        else:
            found |= _files_of_run(Path(folder, entry.name), problems)
    problems += [
        f"{name} has {size:,} bytes, more than {limit:,}"
        for name, size in found.items()
        if size > (limit := largest(name.rpartition("/")[2]))
    ]
    if (total := sum(found.values())) > LARGEST_SUBMISSION:
        problems.append(f"all files have {total:,} bytes, more than {LARGEST_SUBMISSION:,}")
    return found, problems


def _entries(folder: Path, most: int, problems: list[str]) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for number, entry in enumerate(entries):
            if number >= most:
                problems.append(f"{quoted(folder.name)} holds more than {most} files or folders")
                return
            yield entry


def _files_of_run(folder: Path, problems: list[str]) -> dict[str, int]:
    found = {}
    for entry in _entries(folder, MOST_FILES, problems):
        known = entry.stat(follow_symlinks=False)
        name = f"{folder.name}/{quoted(entry.name)}"
        if stat.S_ISLNK(known.st_mode):
            problems.append(f"{name} is a link")
        elif stat.S_ISDIR(known.st_mode):
            problems.append(f"{name} is a folder")
        elif not stat.S_ISREG(known.st_mode) or not largest(entry.name) or entry.name == MANIFEST:
            problems.append(f"{name} is not a file of a submission")
        else:
            found[f"{folder.name}/{entry.name}"] = known.st_size
    return found


def manifest_of(folder: Path) -> Manifest:
    """submission.json of a folder.

    Raises:
        OSError, ValueError: it is missing, a link, too large, damaged, or of another schema.
    """
    path = folder / MANIFEST
    size = regular_size(path)
    if size is None:
        raise ValueError("it is missing, or not a file")
    if size > largest(MANIFEST):
        raise ValueError(f"it has {size:,} bytes")
    content = read_strict(path)
    if places := list(private_places(content)):
        raise ValueError(f"it says something about a machine: {quoted(places[0])}")
    return read_manifest(content)


def file_problems(folder: Path, manifest: Manifest, found: dict[str, int]) -> Iterator[str]:
    """Differences between a submission's files and submission.json, whose paths are never opened:
    only files that were found are.
    """
    there = {name for name in found if name != MANIFEST}
    for name in sorted(set(manifest.files) - there):
        yield f"submission.json names {quoted(name)}, which is not there"
    for name in sorted(there - set(manifest.files)):
        yield f"{name} is not in submission.json"
    for name in sorted(there & set(manifest.files)):
        known = manifest.files[name]
        if found[name] != known.size:
            yield f"{name} has {found[name]:,} bytes, not {known.size:,}"
        elif digest(folder / name) != known.sha256:
            yield f"{name} has changed: its SHA-256 is not that in submission.json"
    runs = {name.partition("/")[0] for name in there}
    for name in sorted(runs ^ set(manifest.runs)):
        yield f"{quoted(name)} is a folder or in submission.json, but not both"
    for run in sorted(runs & set(manifest.runs)):
        for required in REQUIRED:
            if f"{run}/{required}" not in there:
                yield f"{run} has no {required}"


def content_problems(folder: Path) -> Iterator[str]:
    """Files of a run that cannot be read safely, or say something about a machine."""
    for name in (RECORD, CONFIG, HISTORY):
        try:
            content: Any = read_strict(folder / name)
        except FAULTS as error:
            yield f"{name} cannot be read: {quoted(str(error), 200)}"
            continue
        for place in list(private_places(content))[:3]:
            yield f"{name} says something about a machine: {quoted(place)}"
    for path in sorted(folder.iterdir()):
        if path.name == QUERIES or FEATURES.fullmatch(path.name):
            try:
                check_npz(path, largest(path.name))
                if path.name == QUERIES:
                    read_queries(path)
            except FAULTS as error:
                yield f"{path.name} cannot be read: {quoted(str(error), 200)}"
