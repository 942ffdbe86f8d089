"""`harness bench`: time methods, the pipeline, labels or evaluation on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.cli.parser import Parser, count, natural, positive, share

ABOUT = {
    "methods": "What each method costs: steps, extraction, label step and tests of every stage in "
    "alternating rounds, the hours of its schedule, and ratios to a reference.",
    "train": "Images per second of training: the steps of a run, on images of a data set, beside "
    "the bare loop of network, loss and optimizer on one batch.",
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
    repeats = 20 if what == "methods" else 3
    parser.add_argument("--repeats", type=count, default=repeats,
                        help=f"rounds after the warm-up; default {repeats}")  # fmt: skip
    parser.add_argument("--max-load", type=positive, default=0.1,
                        help="share of the CPU that other work may take; default 0.1")  # fmt: skip
    if what == "methods":
        parser.add_argument("--max-error", type=positive, default=0.1,
                            help="of a cost, half its 95%% interval; default 0.1")  # fmt: skip
    else:
        parser.add_argument("--max-spread", type=positive, default=0.25,
                            help="range of the rounds over their median; default 0.25")  # fmt: skip
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
    import torch
    from rich.console import Console

    from harness.benchmarks import evaluation, labels, methods, pipeline, timing
    from harness.core.precision import resolve_device
    from harness.core.progress import Reporter

    if threads:
        torch.set_num_threads(threads)
    options["device"] = resolve_device(options["device"])
    bounds = {"max_load": "load", "max_spread": "spread", "max_error": "error",
              "retries": "retries"}  # fmt: skip
    options["bounds"] = timing.Bounds(
        **{field: options.pop(key) for key, field in bounds.items() if key in options}
    )
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

    machine, candidates = result["machine"], result["candidates"]
    print(f"{result['what']} on {machine['device']}, {machine['threads']} threads")
    print(", ".join(f"{key} {value}" for key, value in result["setting"].items()))
    if result["what"] == "methods":
        print(pd.DataFrame(_rows(result)).astype(object).fillna("").to_string(index=False))
    else:
        table = pd.json_normalize(list(candidates.values())).set_index(pd.Index(candidates))
        print(table.astype(object).T.fillna("").to_string())
        first = next(iter(candidates))
        for name, ratio in result["ratios"].items():
            wall, cpu = ratio["images_per_second"], ratio["images_per_core_second"]
            print(f"{first} is {wall} times as fast as {name} ({cpu} times by CPU time)")
    load = result["load"]
    if load["others"] is not None:
        print(f"other processes took {load['others']:.1%} of the CPU, other virtual machines "
              f"{load['steal']:.1%}, at most {load['highest']:.1%} together; "
              f"{load['repeated']} measurements were repeated")  # fmt: skip
    for line in result["disturbed"]:
        print(f"disturbed: {line}")


def _rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table of methods: one for each stage, the last one with the method's total."""
    rows = []
    for method, found in result["methods"].items():
        *_, last = found["stages"]
        for name, stage in found["stages"].items():
            ratios = stage["ratios"]
            rows.append({
                "method": method, "stage": name,
                "step s": stage["step_seconds"], "×": ratios.get("step_seconds"),
                "extract s": stage["extract_seconds"], "× ": ratios.get("extract_seconds"),
                "label s": stage["label_seconds"], "×  ": ratios.get("label_seconds"),
                "test s": stage["test_seconds"], "epoch s": stage["epoch_seconds"],
                "forwards": stage.get("forward_passes"),
                "M parameters": _millions(stage.get("trained_parameters")),
                **{f"{key} MiB": value for key, value in stage["memory_mib"].items()},
                "hours": stage["hours"],
                **({"total": found["hours"],
                    f"cost × {result['setting']['reference']}": found["cost"],
                    "±": found["cost_error"]}
                   if name == last else {}),
            })  # fmt: skip
    return rows


def _millions(count: int | None) -> float | None:
    return None if count is None else round(count / 1e6, 3)
