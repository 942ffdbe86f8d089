"""`harness verify`: compare the arithmetic with the authors' own code."""

from __future__ import annotations

import sys

from harness.cli.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "verify",
        "harness verify",
        "Check every method's arithmetic against vectors that its authors' code produced.",
    )
    parser.add_argument("folder", nargs="?", help="other vectors with the same arrays")
    options = parser.parse_args(arguments)
    from harness.conformance import show

    if not show(options.folder):
        sys.exit(1)
