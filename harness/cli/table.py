"""`harness table`: compare finished runs."""

from __future__ import annotations

from harness.cli.parser import Parser
from harness.core.errors import ConfigError


def main(arguments: list[str]) -> None:
    parser = Parser(
        "table", "harness table --format latex --output table.tex", "Compare finished runs."
    )
    parser.usage = "harness table [OPTION …]"
    parser.add_store()
    formats = ["terminal", "markdown", "latex", "html", "csv"]
    parser.add_argument("--format", default="terminal", choices=formats)
    parser.add_argument("--dataset", help="only this data set")
    parser.add_argument("--where", help='only runs that satisfy a condition: "seed < 3"')
    selections = ["last", "label_free", "oracle"]
    parser.add_argument("--selection", choices=selections, help="only such checkpoints")
    parser.add_argument("--sort", help="a metric, images_per_second, hours, cost or method")
    parser.add_argument("--reverse", action="store_true", help="best first")
    parser.add_argument("--rows", help="fields, separated by commas: method, labeler.eps, …")
    parser.add_argument("--columns", help="fields: dataset, protocol, seed, …")
    parser.add_argument("--by-dataset", action="store_true", help="--rows method --columns dataset")
    parser.add_argument("--cross", action="store_true", help="trained on → tested on")
    parser.add_argument("--metrics", help="of all but the usual table: mAP,seeds")
    parser.add_argument("--compare", nargs="*", metavar="ROW", help="test which rows differ")
    parser.add_argument("--gap", action="store_true", help="%% closed from floor to supervised")
    parser.add_argument("--output", help="write to this file; latex also writes a .bib")
    parser.add_argument("--published", action="store_true", help="numbers from papers, no runs")
    options = parser.parse_args(arguments)
    pivots = options.rows or options.columns or options.by_dataset or options.cross
    if options.metrics is not None and not pivots and options.compare is None:
        raise ConfigError(
            "--metrics applies to --rows, --columns, --by-dataset, --cross and --compare.",
            "Add one of them, or leave --metrics out.",
        )
    if options.gap and (pivots or options.compare is not None or options.published):
        raise ConfigError("--gap applies to the usual table only.", "Leave it out.")
    from harness.results.tables import Options, show, show_published

    if options.published:
        show_published(options.format, options.dataset, options.output)
        return
    by_dataset = options.by_dataset
    wanted = Options(
        store=options.store,
        style=options.format,
        dataset=options.dataset,
        where=options.where,
        sort=options.sort,
        metrics=_words(options.metrics) or ("mAP", "rank1"),
        rows=_words(options.rows) or (("method",) if by_dataset else ()),
        columns=_words(options.columns) or (("dataset",) if by_dataset else ()),
        selection=options.selection,
        reverse=options.reverse,
        compared=None if options.compare is None else tuple(options.compare),
        output=options.output,
        gap=options.gap,
    )
    if not options.cross:
        show(wanted)
        return
    if wanted.pivots or wanted.compared is not None:
        raise ConfigError("--cross excludes --rows, --columns, --by-dataset and --compare.")
    from harness.experiment.cross_domain import tables

    show(wanted, tables(wanted.store, wanted.dataset, wanted.condition, wanted.metrics))


def _words(text: str | None) -> tuple[str, ...]:
    words = (word.strip() for word in (text or "").split(","))
    return tuple(dict.fromkeys(filter(None, words)))
