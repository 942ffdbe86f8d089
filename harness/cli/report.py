"""`harness report`: finished runs as one HTML page."""

from __future__ import annotations

from harness.cli.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "report",
        "harness report --output report.html",
        "Write one HTML page about finished runs: tables, curves, costs, methods. It works offline.",
    )
    parser.add_store()
    parser.add_argument("--output", default="report.html", help="the file to write")
    options = parser.parse_args(arguments)
    from harness.results.report import write_report

    print(write_report(options.store, options.output))
