"""The argument parser of the commands, and how errors are printed."""

from __future__ import annotations

import argparse
import os.path
import re
import sys
from collections.abc import Iterable
from typing import NoReturn

from harness.core.errors import ConfigError, DataError, HarnessError

#: options of `harness run` → the same ones of commands that take flags
FLAGS = {"data.root": "--data-root", "data.cache_dir": "--cache", "store": "--store",
         "device": "--device", "threads": "--threads"}  # fmt: skip


class Parser(argparse.ArgumentParser):
    """Help that begins with an example, and errors in the form of all others."""

    def __init__(self, command: str, example: str, description: str = "") -> None:
        super().__init__(prog=f"harness {command}", description=description)
        self.example = example

    def format_help(self) -> str:
        return f"example:  {self.example}\n\n{super().format_help()}"

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}.", f"Example: {self.example}")

    def add_store(self) -> None:
        self.add_argument(
            "--store", default="results/runs", type=os.path.expanduser, help="folder of runs"
        )

    def add_data(self) -> None:
        """Options of commands that read the images of a run."""
        self.add_argument("--data-root", metavar="DIR", help="default: $HARNESS_DATA or ./data")
        self.add_argument("--cache", metavar="DIR", help="decoded images; DATA_ROOT/.harness")
        self.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")

    def add_compute(self) -> None:
        """Options of commands on features from files."""
        self.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
        self.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
        self.add_argument("--force", action="store_true", help="overwrite existing files")
        self.add_argument("--json", action="store_true", help="print JSON; notes go to stderr")


def natural(text: str) -> int:
    """The type of an option: a whole number from 0."""
    return _whole(text, 0)


def count(text: str) -> int:
    """The type of an option: a whole number from 1."""
    return _whole(text, 1)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"'{text}' must be a whole number from {least}")
    return int(text)


def positive(text: str) -> float:
    """The type of an option: a finite number above 0."""
    return _up_to(text, sys.float_info.max, "a number above 0")


def share(text: str) -> float:
    """The type of an option: a number above 0, up to 1."""
    return _up_to(text, 1, "a number above 0, up to 1")


def _up_to(text: str, most: float, words: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= most:  # nan is refused, too
        raise argparse.ArgumentTypeError(f"'{text}' must be {words}")
    return value


def report_error(error: HarnessError, flags: Iterable[str] = ()) -> int:
    """Print an error; returns the exit status.

    flags: keys of `FLAGS` that the command takes as `--data-root DIR`, not as `data.root=DIR`.
    """
    print(_with_flags(f"error: {error}", flags), file=sys.stderr)  # its hint is indented
    return 2 if isinstance(error, ConfigError | DataError) else 1


def _with_flags(text: str, flags: Iterable[str]) -> str:
    """`data.root=DIR` as `--data-root DIR`."""
    if not (keys := "|".join(map(re.escape, flags))):
        return text
    pattern = rf"(?<![\w.'-])({keys})=([\w/~.:-]*[\w/])?"
    return re.sub(pattern, lambda found: f"{FLAGS[found[1]]} {found[2] or ''}".strip(), text)
