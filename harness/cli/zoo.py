"""`harness zoo`: add a trained network to the model zoo."""

from __future__ import annotations

from harness.cli.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "zoo",
        "harness zoo add RUN --url https://…/NAME.safetensors",
        "Export a finished run as safetensors, and add it with its results to the model zoo: "
        "results/zoo.yaml, or $HARNESS_ZOO. harness list models prints the zoo.",
    )
    parser.add_argument("action", choices=["add"])
    parser.add_argument("run", help="name of a run, the beginning of the name, or its folder")
    parser.add_argument("--name", help="default: METHOD-DATASET-sSEED")
    parser.add_argument("--url", help="where others find the file; default: beside the zoo's file")
    parser.add_argument("--terms", help="of use; default: those of the training data")
    parser.add_argument("--output", help="the file; default: NAME.safetensors beside the zoo's")
    parser.add_argument("--stage", help="whose network is added; default: the last stage")
    parser.add_store()
    options = parser.parse_args(arguments)
    from harness.experiment.models.export import add_to_zoo

    name, entry, file = add_to_zoo(
        options.run,
        name=options.name,
        url=options.url,
        terms=options.terms,
        output=options.output,
        stage=options.stage,
        store=options.store,
    )
    print(f"{name}: {entry.in_words()}")
    print(f"sha256   {entry.sha256}\nurl      {entry.url}\nwritten  {file}")
