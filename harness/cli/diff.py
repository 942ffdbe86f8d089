"""`harness diff`: what two runs differ in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness.cli.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "diff",
        "harness diff RUN RUN",
        "Show what two runs differ in: settings, protocol card, data set, environment, metrics.",
    )
    parser.add_argument("one", metavar="RUN", help="name, beginning of the name, or folder")
    parser.add_argument("other", metavar="RUN", help="the run to compare it with")
    parser.add_store()
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    from harness.results.differences import differences
    from harness.results.store import Store

    store = Store(Path(options.store))
    runs = store.find(options.one), store.find(options.other)
    found = list(differences(*runs))
    if options.json:
        print(json.dumps([one._asdict() for one in found], ensure_ascii=False))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", *(run.name for run in runs)):
        table.add_column(heading, overflow="fold")
    section = ""
    for one in found:
        if one.section != section:
            section = one.section
            table.add_row(f"[bold]{section}[/bold]")
        table.add_row(*map(escape, (one.key, one.one, one.other)))
    terminal = sys.stdout.isatty()  # elsewhere, for grep, values are not broken into lines
    Console(highlight=False, width=None if terminal else 10_000).print(table)
