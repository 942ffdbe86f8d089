"""`harness rm`: remove runs."""

from __future__ import annotations

from harness.cli.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "rm",
        "harness rm 'mskd-*-s1-*'",
        "Remove runs with all their files, after a question. Active runs are skipped.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="full names, or patterns with *")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_store()
    options = parser.parse_args(arguments)
    from harness.results.delete import remove

    remove(options.runs, options.store, options.yes)
