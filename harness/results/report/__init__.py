"""`harness report`: leaderboards, curves, costs and methods of a store, as one HTML page."""

from harness.results.report.page import render, write_report

__all__ = ["render", "write_report"]
