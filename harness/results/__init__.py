"""Results: the records that finished runs leave, the store that holds them, and tables of them.

In a notebook, `harness.results.load("results/runs")` is a tidy pandas table of all finished runs.
"""

from harness.results.store import Run, Store, load

__all__ = ["Run", "Store", "load"]
