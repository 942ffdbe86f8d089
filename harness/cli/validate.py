"""`harness validate`: check submissions without trust."""

from __future__ import annotations

import os
import sys

from harness.cli.parser import Parser
from harness.core.files import expanded


def main(arguments: list[str]) -> None:
    parser = Parser(
        "validate",
        "harness validate submissions/mskd",
        "Check submissions that anyone may have made: files, protocol, data, metrics, cost. "
        "Status 1 if a check fails; what cannot be checked here is unknown, and no failure.",
    )
    parser.add_argument("folders", nargs="+", metavar="DIR", help="what harness submit wrote")
    parser.add_argument("--data", action="store_true", help="compare with the data sets here, too")
    parser.add_argument("--data-root", metavar="DIR", help="default: $HARNESS_DATA or ./data")
    parser.add_argument("--against", metavar="STORE", help="known results; results/leaderboard")
    parser.add_argument("--format", default="terminal", choices=["terminal", "markdown"])
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    from rich.console import Console

    from harness.experiment.submissions import Reference, validate
    from harness.experiment.submissions.render import as_json, as_markdown, print_verdicts

    reference = Reference()
    if options.data or options.data_root:
        root = options.data_root or os.environ.get("HARNESS_DATA", "data")
        reference.data_root = expanded(root)
    if options.against:
        reference.leaderboard = expanded(options.against)
    verdicts = [validate(folder, reference) for folder in options.folders]
    if options.json:
        print(as_json(verdicts))
    elif options.format == "markdown":
        print(as_markdown(verdicts), end="")
    else:
        print_verdicts(verdicts, Console(highlight=False))
    if not all(verdict.passes for verdict in verdicts):
        sys.exit(1)
