"""Finds what a text says about the machine that it was written on."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

#: `/home/…`, `~/…`, `C:\…`, `\\server`, `file:…` at the beginning of a word; no addresses
_PATH = re.compile(r"(?<![\w/.])(?:/(?=[\w.~-])|~[\w-]*/|[A-Za-z]:[\\/](?=\w)|file:)|\\\\\w")
#: names of users and machines that say nothing, or are words of records
_COMMON = {"admin", "localhost", "runner", "student", "teacher", "test", "train", "ubuntu", "user"}
_SHORTEST = 4


def machine_names() -> list[str]:
    """The names of this machine and its user, and the user's home folder, as far as they say
    anything.
    """
    names = []
    with suppress(OSError):
        names += [host := socket.gethostname(), host.partition(".")[0]]
    with suppress(Exception):  # no such user: KeyError, ImportError or OSError
        names.append(getpass.getuser())
    with suppress(RuntimeError):
        names.append(str(Path.home()))
    return [n for n in names if len(n) >= _SHORTEST and n not in _COMMON and n != "root"]


def private_places(content: Any, names: Iterable[str] = (), key: str = "") -> Iterator[str]:
    """What strings in JSON say about a machine: `KEY: why`, without the text itself.

    `names` are those of machines and users that must not occur as whole words.
    """
    if isinstance(content, dict):
        for inner, value in content.items():
            yield from private_places(str(inner), names, f"{key}.(a key)" if key else "(a key)")
            yield from private_places(value, names, f"{key}.{inner}" if key else str(inner))
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from private_places(value, names, f"{key}[{number}]")
    elif isinstance(content, str):
        if _PATH.search(content):
            yield f"{key}: an absolute path"
        elif any(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", content) for name in names):
            yield f"{key}: the name of a machine or a user"
