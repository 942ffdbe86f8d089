"""`harness report`: finished runs as one HTML page."""

from __future__ import annotations

from harness.cli.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "report",
        "harness report --output report.html",
        "Write an HTML page about runs: tables, curves, costs, methods. It works offline.",
    )
    parser.add_store()
    parser.add_argument("--output", default="report.html", help="the file to write")
    formats = ["svg", "png", "pdf"]
    parser.add_argument("--charts", choices=formats, help="also write each chart as a file")
    parser.add_argument("--charts-dir", metavar="DIR", help="default: PAGE-charts")
    options = parser.parse_args(arguments)
    from harness.results.report import write_report

    page, *drawn = write_report(options.store, options.output, options.charts, options.charts_dir)
    print(page)
    if drawn:
        print(f"{len(drawn)} charts in {drawn[0].parent}")
