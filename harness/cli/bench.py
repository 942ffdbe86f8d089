"""`harness bench`: time methods, the pipeline, labels or evaluation on this machine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from harness.cli.parser import Parser, count, natural, positive, share

ABOUT = {
    "methods": "What each method costs: steps, extraction, label step and tests of every stage in "
    "alternating rounds, the hours of its schedule, and ratios to a reference.",
    "train": "Images per second of training: the steps of a run, on images of a data set, beside "
    "the bare loop of network, loss and optimizer on one batch. Default: MSKD, protocol=common.",
    "extract": "Images per second of feature extraction, beside the bare forward pass.",
    "augment": "Images per second of augmented batches, without a network.",
    "labels": "The label step on synthetic features, beside the matrix products that it needs.",
    "eval": "Evaluation on synthetic features, beside the matrix product that it needs.",
    "gpu": "Everything that needs a GPU: its tests, the timings, MSKD as published. "
    "The same command continues where it was stopped.",
}
EXAMPLES = {
    "methods": "harness bench methods 'method=glob(*)' dataset=market1501 --output results/bench",
    "labels": "harness bench labels --views 3",
    "eval": "harness bench eval --rerank",
    "gpu": "harness bench gpu --minutes 9",
}
#: decimals of columns of the table of methods
DECIMALS = {"Step": 2, "Extract": 1, "Labels": 2, "Test": 1, "Epoch": 0, "Passes": 0, "M param.": 2,
            "Hours": 2, "Cost": 2}  # fmt: skip
#: columns of the table of methods, those that need a wide terminal, and how wide it must be
COLUMNS = ("Step", "Extract", "Labels", "Test", "Epoch", "Passes", "M param.", "MiB", "Hours",
           "Cost", "±")  # fmt: skip
WIDE_ONLY, WIDE = ("Extract", "Labels", "Test", "M param."), 108
PIPELINE = ("train", "extract", "augment")


def main(arguments: Sequence[str]) -> None:
    what, *rest = arguments or [""]
    if what not in ABOUT:
        parser = Parser("bench", "harness bench train --baseline", "Time a part of the harness.")
        parser.add_argument("what", choices=ABOUT, help="see harness bench WHAT --help")
        parser.parse_args(arguments)  # prints help or raises
    example = EXAMPLES.get(what, f"harness bench {what} dataset=market1501 --baseline")
    parser = Parser(f"bench {what}", example, ABOUT[what])
    if what == "gpu":
        parser.add_argument("--minutes", type=positive, help="stop after this time")
        parser.add_store()
        from harness.benchmarks import gpu

        gpu.run(**vars(parser.parse_args(rest)))
        return
    if what in PIPELINE:
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in harness run")
        parser.add_argument("--images", type=count, default=1024, help="use at most this many")
        parser.add_argument("--steps", type=count, help="batches per round; default 50 on a GPU")
        parser.add_argument("--baseline", dest="with_baseline", action="store_true",
                            help="alternate with DataLoader, PIL and fp32")  # fmt: skip
        parser.add_argument("--workers", type=natural,
                            help="of the DataLoader; default: the fastest")  # fmt: skip
    elif what == "methods":
        parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE",
                            help="as in harness run, or method=mskd,buc")  # fmt: skip
        parser.add_argument("--reference", default="cluster_contrast", help="method of cost 1")
        parser.add_argument("--seconds", type=positive, default=0.5,
                            help="of each measurement, at least; default 0.5")  # fmt: skip
    else:
        sizes = ["market1501", "msmt17"]
        parser.add_argument("--size", default=sizes[0], choices=sizes, help="of this data set")
    if what == "labels":
        parser.add_argument("--images", type=count, help="another number of images")
        parser.add_argument("--views", type=count, default=1, help="views of each image")
    if what == "eval":
        parser.add_argument("--scale", type=share, default=1.0, help="a share of the test set")
        parser.add_argument("--rerank", action="store_true", help="with k-reciprocal re-ranking")
    repeats = 20 if what == "methods" else 5
    parser.add_argument("--repeats", type=count, default=repeats,
                        help=f"rounds after the warm-up; default {repeats}")  # fmt: skip
    parser.add_argument("--max-load", type=share, default=0.1,
                        help="share of the CPU that other work may take; default 0.1")  # fmt: skip
    parser.add_argument("--max-error", type=positive, default=0.1,
                        help="half the 95%% interval of a cost or rate; default 0.1")  # fmt: skip
    parser.add_argument("--retries", type=natural, default=2, help="of a disturbed measurement")
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    parser.add_argument("--threads", type=count, help="CPU threads; default: all")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="write WHAT-DEVICE.json there, unless other work disturbed it",
    )
    options = vars(parser.parse_intermixed_args(rest))
    threads, as_json, output = (options.pop(key) for key in ("threads", "json", "output"))
    from rich.console import Console

    from harness.benchmarks import evaluation, labels, methods, pipeline, timing
    from harness.core.distributed.processes import use_threads
    from harness.core.precision import resolve_device
    from harness.core.progress import Reporter

    if output:
        timing.check_folder(output)
    if threads:
        use_threads(threads, f"--threads {threads}")
    options["device"] = resolve_device(options["device"])
    bounds = {"load": "max_load", "error": "max_error", "retries": "retries"}
    options["bounds"] = timing.Bounds(**{name: options.pop(key) for name, key in bounds.items()})
    if what in PIPELINE:
        result = pipeline.measure(what, **options)
    elif what == "methods":
        with Reporter(Console(stderr=True, highlight=False)) as reporter:
            result = methods.measure(**options, reporter=reporter)
    else:
        result = (labels if what == "labels" else evaluation).measure(**options)
    print(json.dumps(result)) if as_json else _show(result)
    if output:
        path = timing.save(result, output)
        if not as_json:
            print(path)


def _show(result: Mapping[str, Any]) -> None:
    """Print a table with a column for each candidate, the setting and the ratios."""
    import pandas as pd

    from harness.results.measured_costs import hardware

    machine, candidates = result["machine"], result["candidates"]
    name = hardware(machine["device"], machine["cpu"])
    print(f"{result['what']} on {name}, {machine['threads']} threads")
    print(", ".join(f"{key} {value}" for key, value in result["setting"].items()))
    if result["what"] == "methods":
        _show_methods(result)
    else:
        table = pd.json_normalize(list(candidates.values())).set_index(pd.Index(candidates))
        print(table.astype(object).T.fillna("").to_string())
        first = next(iter(candidates))
        for name, ratio in result["ratios"].items():
            wall, cpu = ratio["images_per_second"], ratio["images_per_core_second"]
            print(f"{first}: {wall} times the images/s of {name}, ± {ratio['error']:.0%} "
                  f"({cpu} times by CPU time)")  # fmt: skip
    load = result["load"]
    if load["others"] is not None:
        print(f"other processes took {load['others']:.1%} of the CPU, other virtual machines "
              f"{load['steal']:.1%}, at most {load['highest']:.1%} together; "
              f"{load['repeated']} measurements were repeated")  # fmt: skip
    for line in result["disturbed"]:
        print(f"disturbed: {line}")


def _show_methods(result: Mapping[str, Any]) -> None:
    """Print a row for each stage; the last one has the hours and the cost of the method."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    width = shutil.get_terminal_size((WIDE, 24)).columns
    shown = [column for column in COLUMNS if width >= WIDE or column not in WIDE_ONLY]
    table = Table("Method", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    for column in shown:
        table.add_column(column, justify="right")
    for method, found in result["methods"].items():
        *_, last = found["stages"]
        for name, stage in found["stages"].items():
            total = {key: found[key] for key in ("hours", "cost", "cost_error")}
            cells = _cells(stage | (total if name == last else {}))
            label = method if name == last else f"{method} ({name})"
            table.add_row(label, *(cells[column] for column in shown))
    Console(width=max(width, 70), highlight=False).print(table)  # a narrower one would cut digits
    reference = result["setting"]["reference"]
    print(
        "Step, Extract, Labels, Test: seconds, of one step and of all images. Epoch: seconds, "
        "without test. Passes: forward passes per step. MiB: peak memory of a step (of extraction, "
        "where nothing is trained), of the GPU if "
        f"there is one. Hours: of the schedule. Cost: hours over those of {reference}, median of "
        "the rounds; ±: half its 95% interval, relative to it."
    )
    if len(shown) < len(COLUMNS):
        print(f"A terminal of {WIDE} columns also shows: {', '.join(WIDE_ONLY)}")


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    """Texts by column; '' for what a stage does not have."""
    parameters, memory = row.get("trained_parameters"), row["memory_mib"]
    error = row.get("cost_error")
    numbers = {
        "Step": row["step_seconds"], "Extract": row["extract_seconds"],
        "Labels": row["label_seconds"], "Test": row["test_seconds"], "Epoch": row["epoch_seconds"],
        "Passes": row.get("forward_passes"),
        "M param.": None if parameters is None else parameters / 1e6,
        "Hours": row["hours"], "Cost": row.get("cost"),
    }  # fmt: skip
    cells = {column: _number(value, DECIMALS[column]) for column, value in numbers.items()}
    cells["MiB"] = f"{memory.get('device_above', memory['host_above']):.0f}"
    return cells | {"±": "" if error is None else f"{error:.0%}"}


def _number(value: float | None, decimals: int) -> str:
    """A number of so many decimals, or of two digits if it is small; '' for none or 0."""
    if not value:
        return ""
    return f"{value:.{decimals}f}" if value >= 10.0**-decimals * 10 else f"{value:.2g}"
