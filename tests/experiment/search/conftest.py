"""What searches in tests leave behind is gone after them."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from harness.core import plugins
from harness.experiment.registration import register


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plug-ins that a test names are forgotten, and no search of this machine is found."""
    monkeypatch.setenv("HARNESS_PLUGINS", "")
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if name.startswith(plugins.ALIAS):
            del sys.modules[name]
    monkeypatch.undo()
    register()
