"""`harness submit`: pack finished runs for the public table."""

from __future__ import annotations

from harness.cli.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "submit",
        "harness submit 'mskd-market1501-*' --name mskd",
        "Pack finished runs into a folder that `harness validate` checks: records, histories, "
        "configurations and per-query results; no images, no networks, no paths.",
    )
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="names, their beginnings, patterns, methods, folders"
    )
    parser.add_argument("--name", help="of the submission; default: that of the run")
    parser.add_argument("--features", action="store_true", help="with the test features (float16)")
    parser.add_argument(
        "--output", default="submissions", metavar="DIR", help="default: submissions"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace one of this name")
    parser.add_store()
    options = parser.parse_args(arguments)
    from harness.experiment.submissions import submit
    from harness.experiment.submissions.pack import described

    folder = submit(
        options.runs, options.store, options.name, options.output, options.features,
        options.overwrite,
    )  # fmt: skip
    print(described(folder))
