"""Results: what a finished cell leaves, where it is kept, and the tables made of it."""

from harness.results.store import Run, Store, load

__all__ = ["Run", "Store", "load"]
