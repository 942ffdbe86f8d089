"""One-line notices to the person at the terminal: each is said once."""

from __future__ import annotations

import os
import sys

_said: set[str] = set()


def say_once(text: str) -> None:
    """Print a line to stderr, unless this process has said it before, or another one does: of
    several that torchrun starts the first one speaks.
    """
    if text not in _said and os.environ.get("RANK", "0") == "0":
        _said.add(text)
        print(f"note: {text}", file=sys.stderr)
