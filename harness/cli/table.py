"""`harness table`: compare finished runs."""

from __future__ import annotations

from harness.cli.parser import Parser
from harness.core.errors import ConfigError

#: option → those that have no effect beside it
IGNORED = {
    "published": ("metrics", "where", "selection", "sort", "reverse", "rows", "columns",
                  "by_dataset", "cross", "compare"),
    "cross": ("sort",),
    "compare": ("sort", "reverse"),
}  # fmt: skip


def main(arguments: list[str]) -> None:
    parser = Parser("table", "harness table --output table.tex")
    parser.usage = "harness table [OPTION …]"
    parser.add_store()
    formats = ["terminal", "markdown", "latex", "html", "csv"]
    told = f"{', '.join(formats)}; by default as --output ends"
    parser.add_argument("--format", choices=formats, metavar="FORMAT", help=told)
    parser.add_argument("--dataset", help="only this data set")
    parser.add_argument("--where", help='only runs that satisfy a condition: "seed < 3"')
    selections = ["last", "label_free", "oracle"]
    told = f"only such checkpoints: {', '.join(selections)}"
    parser.add_argument("--selection", choices=selections, metavar="HOW", help=told)
    parser.add_argument("--sort", help="a metric, images_per_second, hours, cost or method")
    parser.add_argument("--reverse", action="store_true", help="best first")
    parser.add_argument("--rows", help="fields, separated by commas: method, labeler.eps, …")
    parser.add_argument("--columns", help="fields: dataset, protocol, seed, …")
    parser.add_argument("--by-dataset", action="store_true", help="--rows method --columns dataset")
    parser.add_argument("--cross", action="store_true", help="trained on → tested on")
    parser.add_argument("--metrics", help="columns of numbers: mAP,rank1,seeds")
    parser.add_argument("--compare", nargs="*", metavar="ROW", help="test which rows differ")
    parser.add_argument("--gap", action="store_true", help="%% closed from floor to supervised")
    parser.add_argument(
        "--output", metavar="FILE", help="write to FILE.tex (and FILE.bib), .md, .csv or .html"
    )
    told = "of LaTeX: short (a sentence, the default), full (protocol and notes too)"
    parser.add_argument("--caption", choices=["short", "full"], metavar="LENGTH", help=told)
    told = "of LaTeX: wide (two columns of a paper, the default), narrow (one)"
    parser.add_argument("--layout", choices=["wide", "narrow"], metavar="WIDTH", help=told)
    parser.add_argument("--published", action="store_true", help="numbers from papers, no runs")
    options = parser.parse_args(arguments)
    pivots = options.rows or options.columns or options.by_dataset or options.cross
    given = {name for name, value in vars(options).items() if value not in (None, False)}
    for kind, others in IGNORED.items():
        if kind in given and (wrong := [name for name in others if name in given]):
            cause = f"--{wrong[0].replace('_', '-')} does not apply to --{kind}."
            raise ConfigError(cause, "Leave it out.")
    if options.gap and (pivots or options.compare is not None or options.published):
        raise ConfigError("--gap applies to the usual table only.", "Leave it out.")
    from harness.results.formats import format_of
    from harness.results.tables import Options, show, show_published

    style = options.format or (format_of(options.output) if options.output else "terminal")
    if style != "latex" and (options.caption or options.layout):
        raise ConfigError(
            f"--caption and --layout apply to LaTeX; this is {style}.",
            "Add --format latex, or leave them out.",
        )
    if options.published:
        show_published(style, options.dataset, options.output)
        return
    by_dataset = options.by_dataset
    wanted = Options(
        store=options.store,
        style=style,
        dataset=options.dataset,
        where=options.where,
        sort=options.sort,
        metrics=_words(options.metrics),
        rows=_words(options.rows) or (("method",) if by_dataset else ()),
        columns=_words(options.columns) or (("dataset",) if by_dataset else ()),
        selection=options.selection,
        reverse=options.reverse,
        compared=None if options.compare is None else tuple(options.compare),
        output=options.output,
        gap=options.gap,
        caption=options.caption or "short",
        layout=options.layout or "wide",
    )
    if not options.cross:
        show(wanted)
        return
    if wanted.pivots or wanted.compared is not None:
        raise ConfigError("--cross excludes --rows, --columns, --by-dataset and --compare.")
    from harness.experiment.cross_domain import tables

    show(wanted, tables(wanted.store, wanted.dataset, wanted.condition, wanted.scores))


def _words(text: str | None) -> tuple[str, ...]:
    words = (word.strip() for word in (text or "").split(","))
    return tuple(dict.fromkeys(filter(None, words)))
