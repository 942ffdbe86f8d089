"""Results: what a finished cell leaves, where it is kept, and the tables made of it.

In a notebook, `harness.results.load("results/runs")` is a tidy pandas table of all finished runs.
"""

from harness.results.store import Run, Store, load

__all__ = ["Run", "Store", "load"]
