"""What holds for every command, whatever it is given.

It ends in time, with a documented exit status; an error is printed as `error: CAUSE` without a
traceback; and it changes no file but those that it is meant to write.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType

from harness.cli.main import main
from harness.core.errors import HarnessError

#: seconds that a command may take
TIME_LIMIT = 60
#: exit statuses of the `harness` command (`harness --help`)
STATUSES = (0, 1, 2)


#: words of the command line, or a call that may raise a HarnessError
Command = Sequence[str] | Callable[[], object]


@dataclass(frozen=True)
class Case:
    """Commands to give in a folder. `writes`: patterns of the paths that they may change."""

    commands: Sequence[Command]
    writes: Sequence[str] = ()


class Hang(BaseException):
    """A command takes too long. No code of the harness catches it."""


def violations(case: Case, folder: Path) -> list[str]:
    """How a case breaks the rules, in words; empty if it does not."""
    found = []
    for command in case.commands:
        before = digest(folder)
        problem = _call(command) if callable(command) else _run(command)
        after = digest(folder)
        changed = [
            path
            for path in sorted({*before, *after})
            if before.get(path) != after.get(path)
            and not any(fnmatchcase(path, pattern) for pattern in case.writes)
        ]
        if changed:
            problem += f"\nchanged: {', '.join(changed[:5])}"
        if problem:
            words = str(command) if callable(command) else " ".join(command)
            found.append(f"harness {words[:600]!r}: {problem.strip()}")
    return found


def digest(folder: Path) -> dict[str, str]:
    """Path below a folder → digest of the content of the file, or where a link leads."""
    found = {}
    for path in folder.rglob("*"):
        name = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = hashlib.blake2b(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder"
    return found


def _run(arguments: Sequence[str]) -> str:
    """Give a command; what is wrong with its end, or ''."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")  # as Python's
    handlers, status = list(logging.getLogger().handlers), 0
    try:
        with redirect_stdout(out), redirect_stderr(err), _time_limit():
            main(arguments)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else -1
    except Hang:
        return f"takes more than {TIME_LIMIT} s"
    except BaseException:
        return traceback.format_exc()
    finally:
        logging.getLogger().handlers[:] = handlers  # of Hydra
    err.flush()
    text = err.buffer.getvalue().decode(errors="replace")
    if status not in STATUSES:
        return f"exit status {status}"
    if "Traceback" in text or (status and "error: " not in text):
        return f"exit status {status}, and stderr is {text[-2000:]!r}"
    return ""


def _call(function: Callable[[], object]) -> str:
    """Call a function that may raise a HarnessError."""
    try:
        with _time_limit():
            function()
    except HarnessError:
        return ""
    except Hang:
        return f"takes more than {TIME_LIMIT} s"
    except BaseException:
        return traceback.format_exc()
    return ""


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(_: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIME_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
