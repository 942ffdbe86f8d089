"""Which rows lead, kept where finding out takes long: thousands of files of results by query.

`.leads.json` in the store holds the answers by a digest of all that they hang on: which runs
compete, their means, and each file's time, size and inode. Another file is another digest, so an
answer cannot be stale; the cache may be missing, damaged or another writer's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import HarnessError
from harness.core.files import write_atomically
from harness.results.index import is_settled, mark

if TYPE_CHECKING:
    from harness.results.significance_marks import Entry

NAME = ".leads.json"
#: fewer runs than this are compared anew each time
LEAST = 100
#: a change of the arithmetic is a new number
VERSION = 1
#: answers that are kept; the oldest go
MOST = 2000

Answer = dict[str, tuple[list[str], list[str]]]


@dataclass
class Kept:
    """marks: metric → labels in bold, labels underlined; None where they are not known yet."""

    marks: Answer | None


@contextmanager
def opened(
    store: Path, entries: Sequence[Entry], scores: Mapping[str, Mapping[str, float]]
) -> Iterator[Kept]:
    """The answer for these entries; if it is set here, it is kept for the next time."""
    key, settled = _key(store, entries, scores)
    answers = _read(store)
    before = answers.get(key)
    kept = Kept(before)
    yield kept
    if kept.marks is not before and kept.marks is not None and settled:
        with suppress(HarnessError):  # another's store, to look at
            text = json.dumps(dict([*_read(store).items(), (key, kept.marks)][-MOST:]))
            write_atomically(store / NAME, lambda file: file.write(text.encode()))


def _key(
    store: Path, entries: Sequence[Entry], scores: Mapping[str, Mapping[str, float]]
) -> tuple[str, bool]:
    """The digest, and whether no file is so young that it might change and not show it."""
    digest, settled = hashlib.blake2b(digest_size=16), True
    digest.update(repr((VERSION, scores)).encode())
    for entry in entries:
        digest.update(repr((entry.label, entry.stage, entry.runs)).encode())
        for path in entry.files(store):
            try:
                status = path.stat()
            except OSError:
                digest.update(b"missing")
                continue
            settled &= is_settled(status)
            digest.update(repr(mark(status)).encode())
    return digest.hexdigest(), settled


def _read(store: Path) -> dict[str, Answer]:
    try:
        found = json.loads((store / NAME).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}
