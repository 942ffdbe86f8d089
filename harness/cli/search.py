"""`harness search`: find hyper-parameters."""

from __future__ import annotations


def main(arguments: list[str]) -> None:
    from harness.experiment.search.command import main as search

    search(arguments)
