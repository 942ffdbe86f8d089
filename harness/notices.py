"""One-line notices to the person at the terminal: each is said once."""

from __future__ import annotations

import sys

_said: set[str] = set()


def say_once(text: str) -> None:
    """Print a line to stderr, unless this process has said it before."""
    if text not in _said:
        _said.add(text)
        print(f"note: {text}", file=sys.stderr)
