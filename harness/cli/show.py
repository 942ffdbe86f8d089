"""`harness show`: figures of a run."""

from __future__ import annotations

from harness.cli.parser import Parser, natural


def main(arguments: list[str]) -> None:
    parser = Parser("show", "harness show RUN ranked --queries worst")
    parser.usage = "harness show RUN [KIND …] [OPTION …]"
    parser.add_argument("run", help="name of a run, the beginning of the name, or its folder")
    kinds = "ranked, embedding, curves, maps; default: all. Or dataset.KEY=VALUE"
    parser.add_argument("what", nargs="*", metavar="KIND", help=kinds)
    parser.add_argument("--output", help="a folder; default: RUN/figures")
    parser.add_argument("--format", default="png", choices=["png", "svg", "pdf"])
    parser.add_argument("--stage", help="whose network is shown; default: the last stage")
    parser.add_argument("--queries", default="worst", help="worst, best, random, or 0,7,NAME")
    parser.add_argument("--count", type=int, default=8, help="number of queries, or of maps")
    parser.add_argument("--top", type=int, default=10, help="images of each ranked list")
    parser.add_argument("--seed", type=natural, default=0, help="of random choices")
    parser.add_argument("--method", default="tsne", help="of the embedding: tsne or umap")
    parser.add_argument("--identities", type=int, default=16, metavar="N", help="of the embedding")
    parser.add_store()
    parser.add_data()
    options = vars(parser.parse_intermixed_args(arguments))
    from harness.experiment.inspect.show import FigureOptions, show_run

    words = options.pop("what")
    drawn = ("queries", "count", "top", "seed", "method", "identities")
    show_run(
        kinds=[word for word in words if "=" not in word],
        changes=[word for word in words if "=" in word],
        style=options.pop("format"),
        options=FigureOptions(**{key: options.pop(key) for key in drawn}),
        **options,
    )
