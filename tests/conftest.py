"""Shared by all tests: one CPU thread, and the `harness` command in this process."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings

from harness.core.host_memory import before_torch

before_torch()  # as the command does

import torch  # noqa: E402

from harness.cli.main import main  # noqa: E402

torch.set_num_threads(1)  # the order of sums, and so the results, depend on it; tests share cores


# no time limits in tests: machines and their load differ
settings.register_profile("harness", deadline=None)
settings.load_profile("harness")


def pytest_collection_finish() -> None:
    """Every run collects garbage first, which takes 0.1 s or more if it looks at all libraries and
    tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Runs with `threads=2` and timings set the number for the whole process."""
    yield
    torch.set_num_threads(1)


class Answer(NamedTuple):
    """Exit status and output of a command."""

    status: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """`command("list", "methods")` runs `harness list methods` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["harness"])
    # set here, so that monkeypatch restores them even if a command changes them
    for name in ("HARNESS_PLUGINS", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("HARNESS_DATA", raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    handlers = list(logging.getLogger().handlers)

    def run(*arguments: str) -> Answer:
        capsys.readouterr()
        try:
            main(arguments)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        else:
            status = 0
        # Hydra's help leaves a logging handler behind, whose stream closes after this test
        logging.getLogger().handlers[:] = handlers
        return Answer(status, *capsys.readouterr())

    return run
