"""`harness report`: leaderboard, curves, costs and methods of a store, as one HTML page."""

from harness.results.report.page import page, write_report

__all__ = ["page", "write_report"]
