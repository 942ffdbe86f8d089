"""The commands: what each is told, in words, and where its work is done.

Imports of anything heavy stand inside of the functions: `harness --help` is quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from harness.core.errors import ConfigError, DataError, HarnessError

RUN_HELP = """\
example:  harness run method=mskd dataset=market1501 seed=0

usage: harness run method=NAME [dataset=NAME] [KEY=VALUE …]

  harness run method=mskd dataset=synthetic              minutes on a laptop, nothing to download
  harness run method=mskd dataset=market1501             the published setting: one GPU, hours
  harness run method=mskd +experiment=market1501_small   a small real run for CPUs
  harness run -m method=mskd,cluster_contrast seed=0,1,2 every combination (multirun)
  harness run method=mskd --cfg job                      show the whole configuration, run nothing
  harness run method=mskd labeler.eps=0.5                change any value of it
  harness run method=cluster_contrast distiller=offline_teacher distiller.teacher=RUN
  harness run method=cluster_contrast dataset=[market1501,msmt17]   both, tested on the first
  harness run method=cluster_contrast dataset=msmt17 init=RUN       begin from a finished run

often changed:  protocol=common|published|demo|debug  selection=last|label_free|oracle
  backbone=resnet50|…  backbone.weights=imagenet|FILE|none  device=cpu|cuda  data.root=DIR
  train.precision=auto|fp32|tf32|bf16|fp16  store=DIR  overwrite=skip|only-missing|always
  log=none|tensorboard|wandb|mlflow  evaluation.rerank=true  evaluation.keep_features=true
  dataset.on_bad_image=skip  +search=NAME (what harness search has found)

A finished cell is not run twice; a killed one goes on when the same command is given again.
harness run --hydra-help shows Hydra's own options; completion: harness run -sc install=bash.
"""


def report_error(error: HarnessError) -> int:
    """Tell of an error; returns the exit status."""
    print(f"error: {error.cause}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)
    return 2 if isinstance(error, ConfigError | DataError) else 1


def _run(arguments: list[str]) -> None:
    if any(a in ("-h", "--help") for a in arguments):
        print(RUN_HELP, end="")
        return
    from harness.core import plugins
    from harness.core.distributed.job import job
    from harness.experiment import compose as hydra_app

    with job(report_error):
        plugins.register()
        hydra_app.run(arguments)


class _Parser(argparse.ArgumentParser):
    """Help that begins with an example; errors that look like all others."""

    def __init__(self, command: str, example: str, description: str) -> None:
        super().__init__(prog=f"harness {command}", description=description, add_help=True)
        self.example = example

    def format_help(self) -> str:
        return f"example:  {self.example}\n\n{super().format_help()}"

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog}: {message}.", f"Example: {self.example}")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _search(arguments: list[str]) -> None:
    from harness.core import plugins

    plugins.register()
    from harness.experiment.search.command import main as search  # Optuna is slow to import

    search(arguments)


def _table(arguments: list[str]) -> None:
    parser = _Parser("table", "harness table --format latex --output table.tex",
                     "Compare finished runs.")  # fmt: skip
    parser.usage = "harness table [OPTION …]"
    parser.add_argument("--store", default="results/runs", help="folder of runs")
    parser.add_argument(
        "--format", default="terminal", choices=["terminal", "markdown", "latex", "html", "csv"]
    )
    parser.add_argument("--dataset", help="only this data set")
    parser.add_argument("--where", help='only runs for which this holds: "seed < 3"')
    parser.add_argument("--selection", choices=["last", "label_free", "oracle"],
                        help="only such checkpoints")  # fmt: skip
    parser.add_argument("--sort", help="a metric, images_per_second, hours, gpu_hours, method")
    parser.add_argument("--reverse", action="store_true", help="best first")
    parser.add_argument("--rows", help="fields: method, or labeler.eps, or several with commas")
    parser.add_argument("--columns", help="fields: dataset, protocol, seed, …")
    parser.add_argument("--by-dataset", action="store_true", help="--rows method --columns dataset")
    parser.add_argument("--cross", action="store_true", help="trained on → tested on")
    parser.add_argument("--metrics", help="of --rows, --columns, --compare, --cross: mAP,gpu_hours")
    parser.add_argument("--compare", nargs="*", metavar="ROW", help="are differences real?")
    parser.add_argument("--output", help="write to this file; latex writes a .bib beside it")
    parser.add_argument("--published", action="store_true", help="numbers of papers, no runs")
    options = parser.parse_args(arguments)
    from harness.results.tables import Options, Table, show, show_published

    if options.published:
        show_published(options.format, options.dataset, options.output)
        return

    def words(text: str | None) -> tuple[str, ...]:
        return tuple(word.strip() for word in (text or "").split(",") if word.strip())

    by_dataset = (("method",), ("dataset",)) if options.by_dataset else ((), ())
    chosen = options.rows or options.columns or options.by_dataset or options.cross
    if options.metrics is not None and not chosen and options.compare is None:
        raise ConfigError(
            "--metrics chooses what --rows, --columns, --by-dataset, --cross or --compare show.",
            "Add one of them, or leave it out.",
        )
    if options.cross and (
        options.rows or options.columns or options.by_dataset or options.compare is not None
    ):
        raise ConfigError("--cross excludes --rows, --columns, --by-dataset and --compare.")
    wanted = Options(
        options.store, options.format, options.dataset, options.where, options.sort,
        words(options.metrics) or ("mAP", "rank1"), words(options.rows) or by_dataset[0],
        words(options.columns) or by_dataset[1], options.selection, options.reverse,
        None if options.compare is None else tuple(options.compare), options.output,
    )  # fmt: skip
    tables: list[Table] | None = None
    if options.cross:
        from harness.experiment.cross_domain import tables as cross_domain_tables

        tables = cross_domain_tables(
            wanted.store, wanted.dataset, wanted.condition, wanted.metrics
        )
    show(wanted, tables)


def _report(arguments: list[str]) -> None:
    parser = _Parser(
        "report",
        "harness report --output report.html",
        "Write one HTML page of finished runs: tables, curves, costs, methods. Needs no network.",
    )
    parser.add_argument("--store", default="results/runs", help="folder of runs")
    parser.add_argument("--output", default="report.html", help="the file to write")
    options = parser.parse_args(arguments)
    from harness.results.report import write_report

    print(write_report(options.store, options.output))


def _show(arguments: list[str]) -> None:
    parser = _Parser("show", "harness show RUN ranked --queries worst", "")
    parser.usage = "harness show RUN [KIND …] [OPTION …]"
    parser.add_argument("run", help="a run's name, the beginning of it, or its folder")
    parser.add_argument(
        "what", nargs="*", metavar="KIND",
        help="ranked, embedding, curves, maps; default all. Or dataset.KEY=VALUE",
    )  # fmt: skip
    parser.add_argument("--output", help="a folder; default RUN/figures")
    parser.add_argument("--format", default="png", choices=["png", "svg", "pdf"])
    parser.add_argument("--stage", help="which of its networks; the last one if left out")
    parser.add_argument("--queries", default="worst", help="worst, best, random, or 0,7,NAME")
    parser.add_argument("--count", type=int, default=8, help="queries, or images of maps")
    parser.add_argument("--top", type=int, default=10, help="images of each ranked list")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    parser.add_argument("--method", default="tsne", help="of embedding: tsne or umap")
    parser.add_argument("--identities", type=int, default=16, metavar="N", help="of embedding")
    parser.add_argument("--store", default="results/runs", help="folder of runs")
    parser.add_argument(
        "--data-root", metavar="DIR", help="where images lie; default $HARNESS_DATA or ./data"
    )
    parser.add_argument(
        "--cache", metavar="DIR", help="where decoded images are kept; default DATA_ROOT/.harness"
    )
    parser.add_argument("--device", default="auto")
    options = vars(parser.parse_intermixed_args(arguments))
    from harness.experiment.figures.draw import Wanted, show_run

    words = options.pop("what")
    drawn = ("queries", "count", "top", "seed", "method", "identities")
    show_run(
        kinds=[word for word in words if "=" not in word],
        changes=[word for word in words if "=" in word],
        style=options.pop("format"),
        wanted=Wanted(**{key: options.pop(key) for key in drawn}),
        **options,
    )


def _list(arguments: list[str]) -> None:
    parser = _Parser("list", "harness list methods", "What there is to choose from.")
    parser.add_argument("what", nargs="?", default="methods", help="methods, crossings, runs, …")
    parser.add_argument("--store", default="results/runs", help="folder of runs")
    parser.add_argument(
        "--format", default="terminal", choices=["terminal", "markdown"], help="of crossings"
    )
    parser.add_argument("--output", help="write crossings to this file, with --format markdown")
    options = parser.parse_args(arguments)
    from harness.cli.listing import show, show_crossings

    if options.what in ("crossing", "crossings"):
        show_crossings(options.format, options.output)
    elif options.format != "terminal" or options.output is not None:
        raise ConfigError("--format and --output are of crossings alone: harness list crossings.")
    else:
        show(options.what, options.store)


def _rerun(arguments: list[str]) -> None:
    parser = _Parser(
        "rerun", "harness rerun --failed",
        "Run again what failed or is unfinished, with the settings that its config.json has.",
    )  # fmt: skip
    parser.add_argument("runs", nargs="*", metavar="RUN", help="names, or beginnings; default all")
    parser.add_argument("--failed", action="store_true", help="only what failed")
    parser.add_argument("--store", default="results/runs", help="folder of runs")
    parser.epilog = (
        "KEY=VALUE says where things are now: data.root=DIR data.cache_dir=DIR device=cpu threads=2 "
        "log=tensorboard backbone.weights=FILE."
    )
    options = parser.parse_intermixed_args(arguments)
    changes = [word for word in options.runs if "=" in word]
    from harness.experiment.rerun import rerun

    names = [word for word in options.runs if "=" not in word]
    rerun(names, changes, options.failed, options.store)


def _rm(arguments: list[str]) -> None:
    parser = _Parser(
        "rm", "harness rm 'mskd-*-s1-*'",
        "Remove runs with all their files. Asks first; leaves running ones alone.",
    )  # fmt: skip
    parser.add_argument("runs", nargs="+", metavar="RUN", help="whole names, or patterns with *")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    parser.add_argument("--store", default="results/runs", help="folder of runs")
    options = parser.parse_args(arguments)
    from harness.results.delete import remove

    remove(options.runs, options.store, options.yes)


def _eval(arguments: list[str]) -> None:
    parser = _Parser("eval", "harness eval RUN --rerank", "")
    parser.usage = "harness eval RUN [dataset=NAME] [dataset.KEY=VALUE …] [OPTION …]"
    parser.add_argument("run", help="a run's name, the beginning of it, or its folder")
    parser.add_argument(
        "changes", nargs="*", metavar="CHANGE",
        help="dataset=OTHER, or where data have moved: dataset.KEY=VALUE",
    )  # fmt: skip
    parser.add_argument("--stage", help="which of its networks; the last one if left out")
    parser.add_argument("--rerank", action="store_true", help="k-reciprocal re-ranking, by …")
    parser.add_argument("--k1", type=int, default=20, metavar="K", help="… 20 neighbours")
    parser.add_argument("--k2", type=int, default=6, metavar="K", help="… of which 6 are averaged")
    parser.add_argument("--lambda", dest="lam", type=float, default=0.3, metavar="L",
                        help="… 0.3 of the plain distance")  # fmt: skip
    parser.add_argument("--ranks", type=_numbers, default=(1, 5, 10, 20), help="other: 1,3,50")
    parser.add_argument("--no-cams", action="store_true", help="leave cameras out of account")
    parser.add_argument("--images", action="store_true", help="even where features were kept")
    parser.add_argument("--save", action="store_true", help="write it beside the record")
    parser.add_argument("--store", default="results/runs", help="folder of runs")
    parser.add_argument("--data-root", metavar="DIR", help="default $HARNESS_DATA or ./data")
    parser.add_argument(
        "--cache", metavar="DIR", help="of decoded images; default DATA_ROOT/.harness"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_intermixed_args(arguments)
    from harness.experiment.evaluate import evaluate_run

    evaluate_run(**vars(options))


def _verify(arguments: list[str]) -> None:
    parser = _Parser(
        "verify",
        "harness verify",
        "Check every method's arithmetic against vectors that its authors' code produced.",
    )
    parser.add_argument("folder", nargs="?", help="other vectors with the same arrays")
    options = parser.parse_args(arguments)
    from harness.conformance import show

    if not show(options.folder):
        sys.exit(1)


def _bench(arguments: list[str]) -> None:
    from harness.benchmarks import command

    if arguments[:1] and arguments[0] in command.ABOUT:
        command.main(arguments[0], arguments[1:], _Parser)
        return
    parser = _Parser(
        "bench",
        "harness bench labels",
        "Time labels or evaluation on made-up features, or (harness bench train --help) the rest.",
    )
    parser.add_argument("what", choices=["labels", "eval", *command.ABOUT])
    parser.add_argument("--size", default="market1501", choices=["market1501", "msmt17"])
    parser.add_argument("--images", type=int, help="labels: another number of images")
    parser.add_argument("--views", type=int, default=1, help="labels: views of each image")
    parser.add_argument("--sweep", action="store_true", help="labels: 4k to 32k images, growth")
    parser.add_argument("--scale", type=float, default=1.0, help="eval: a share of the test set")
    parser.add_argument("--rerank", action="store_true", help="eval: with re-ranking")
    parser.add_argument("--repeats", type=int, default=3, help="after one that warms up")
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = vars(parser.parse_args(arguments))
    labels_only, eval_only = ("images", "views", "sweep"), ("scale", "rerank")
    for key in eval_only if options["what"] == "labels" else labels_only:
        if options[key] != parser.get_default(key):
            raise ConfigError(f"harness bench {options['what']} has no --{key}.")
    if not 0 <= options["threads"] <= 1024:
        raise ConfigError(f"--threads {options['threads']} must be 0 (all) or more.")
    import torch

    from harness.core.precision import resolve_device

    threads = options.pop("threads")
    if threads:
        torch.set_num_threads(threads)
    options["device"] = str(resolve_device(options["device"]))
    from harness.benchmarks import evaluation, labels

    kept = ("size", "repeats", "device", "json")
    if options["what"] == "labels":
        labels.run(**{k: options[k] for k in (*kept, *labels_only)})
    else:
        evaluation.run(**{k: options[k] for k in (*kept, *eval_only)})


def _prepare(arguments: list[str]) -> None:
    parser = _Parser(
        "prepare",
        "harness prepare dataset=market1501 source=Market-1501-v15.09.15.zip",
        "Find a data set in an archive or folder, unpack it under the data root, check every count "
        "and image, decode it for runs, and print its card. Goes on where it was stopped.",
    )
    parser.add_argument(
        "changes", nargs="*", metavar="KEY=VALUE",
        help="dataset=NAME, source=ZIP|TAR|FOLDER, data.root=DIR, images.height=, dataset.KEY=; "
        "of dataset=folder: pattern=REGEX, split_seed=0, test_share=0.5",
    )  # fmt: skip
    parser.add_argument("--yes", action="store_true", help="agree to the CSV of dataset=folder")
    parser.add_argument("--json", action="store_true", help="print the card as JSON")
    options = parser.parse_intermixed_args(arguments)
    from harness.experiment.prepare import prepare

    prepare(**vars(options))


def _label(arguments: list[str]) -> None:
    parser = _Parser(
        "label",
        "harness label FEATURES.npy labeler.eps=0.5 --out LABELS.npy",
        "Pseudo-labels for features of your own, without training. See harness list labelers.",
    )
    parser.add_argument("features", help=".npy, or .npz with `features`: (N, D) or (N, V, D)")
    parser.add_argument(
        "changes", nargs="*", metavar="labeler[.KEY]=VALUE", help="another labeler, its options"
    )
    parser.add_argument("--out", required=True, help="the .npy to write: (N,), -1 for outliers")
    parser.add_argument("--cams", help=".npy, or .npz with `cams`, for labelers that use cameras")
    _add_shared(parser)
    options = parser.parse_intermixed_args(arguments)
    from harness.experiment.standalone.label import label_features

    label_features(**vars(options))


def _score(arguments: list[str]) -> None:
    parser = _Parser(
        "score",
        "harness score QUERY.npz GALLERY.npz --rerank",
        "Rank a gallery for each query and say how well. Arrays: features (N, D) or (N, V, D), "
        "ids (N,), and if there are any cams (N,), names (N,).",
    )
    parser.add_argument("query", help=".npz of the queries")
    parser.add_argument("gallery", help=".npz of the gallery")
    parser.add_argument("--rerank", action="store_true", help="with k-reciprocal re-ranking, too")
    parser.add_argument("--no-cams", action="store_true", help="leave cameras out of account")
    parser.add_argument("--out", help="the .json to write")
    parser.add_argument("--per-query", help="the .npz to write: AP, INP and first match by query")
    _add_shared(parser)
    options = parser.parse_args(arguments)
    from harness.experiment.standalone.score import score_features

    score_features(**vars(options))


def _add_shared(parser: _Parser) -> None:
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all")
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    parser.add_argument("--json", action="store_true", help="print JSON; notes go to stderr")


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "run": _run,
    "search": _search,
    "table": _table,
    "report": _report,
    "show": _show,
    "list": _list,
    "rerun": _rerun,
    "rm": _rm,
    "prepare": _prepare,
    "eval": _eval,
    "verify": _verify,
    "bench": _bench,
    "label": _label,
    "score": _score,
}
