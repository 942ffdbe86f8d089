"""The command line of `harness bench train | extract | augment | page | gpu`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError

Parser = Callable[[str, str, str], argparse.ArgumentParser]
ABOUT = {
    "train": "Images a second of training: the very steps of a run, on images of a data set.",
    "extract": "Images a second of feature extraction.",
    "augment": "Images a second of augmented batches, without a network.",
    "page": "Show the figures under results/bench as a table, or write it into a page.",
    "gpu": "All that waits for a GPU: its tests, the figures beside a plain pipeline, MSKD as "
    "published. Goes on where it was stopped.",
}
EXAMPLES = {
    "train": "harness bench train dataset=market1501 --reference",
    "page": "harness bench page --output docs/pipeline.md",
    "gpu": "harness bench gpu --minutes 9",
}


def main(what: str, arguments: Sequence[str], parser_of: Parser) -> None:
    """Run one of `ABOUT`.

    Args:
        parser_of: makes a parser from a command, an example and a description.

    Raises:
        HarnessError: what cannot be had, with cause and hint.
    """
    example = EXAMPLES.get(what, f"harness bench {what} --reference")
    parser = parser_of(f"bench {what}", example, ABOUT[what])
    if what == "page":
        parser.add_argument("--folder", default="results/bench", help="where figures are")
        parser.add_argument("--output", help="the page to write the table into")
        _page(**vars(parser.parse_args(arguments)))
        return
    if what == "gpu":
        parser.add_argument("--minutes", type=float, help="stop after so many, to go on later")
        parser.add_argument("--store", default="results/runs", help="folder of runs")
        from harness.benchmarks import gpu

        gpu.run(**vars(parser.parse_args(arguments)))
        return
    parser.add_argument(
        "changes", nargs="*", metavar="KEY=VALUE", help="as for harness run: batch.images=4 …"
    )
    parser.add_argument("--images", type=int, default=1024, help="of the data set, at most")
    parser.add_argument("--steps", type=int, default=0, help="batches a round; 0: few on a CPU")
    parser.add_argument("--repeats", type=int, default=3, help="rounds after one that warms up")
    parser.add_argument("--reference", action="store_true", help="beside DataLoader, PIL, fp32")
    parser.add_argument("--workers", type=int, help="of the DataLoader; as many as are best")
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all")
    parser.add_argument("--note", default="", help="what figures have to say of the machine")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", help="a file, or a folder such as results/bench")
    options = vars(parser.parse_intermixed_args(list(arguments)))
    _measure(what, **options)


def _measure(
    what: str, reference: bool, device: str, threads: int, json: bool, output: str | None,
    **options: Any,
) -> None:  # fmt: skip
    if not 0 <= threads <= 1024:
        raise ConfigError(f"--threads {threads} must be 0 (all) or more.")
    import torch

    from harness.benchmarks import figures, pipeline
    from harness.core.host_memory import keep_freed_memory
    from harness.core.precision import resolve_device

    if threads:
        torch.set_num_threads(threads)
    on = resolve_device(device)
    if on.type == "cpu":
        keep_freed_memory()
    found = pipeline.measure(what, device=on, with_reference=reference, **options)
    _show(found, json)
    if output:
        path = figures.save(found, output)
        if not json:
            print(path)


def _show(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found))
        return
    from rich.console import Console
    from rich.table import Table

    setting, machine = found["setting"], found["machine"]
    names = [name for name in ("harness", "reference", "reference_tf32") if name in found]
    table = Table(title=f"{found['what']}, {machine['device']}, {machine['threads']} threads")
    table.add_column()
    for name in names:
        table.add_column(name.replace("_", ", "), justify="right")
    lines: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "images/s": lambda x: f"{x['images_per_second']:,.1f}",
        "rounds": lambda x: ", ".join(f"{rate:,.1f}" for rate in x["rounds"]),
        "images/s of a core's work": lambda x: f"{x['images_per_core_second']:,.1f}",
        "precision": lambda x: x.get("precision", setting["precision"]),
        "workers": lambda x: str(x.get("workers", "none")),
    }
    if found["what"] == "train":
        lines["waiting for data"] = lambda x: f"{100 * x['waiting']:.2f} %"
    for title, tell in lines.items():
        table.add_row(title, *(tell(found[name]) for name in names))
    for place in found["harness"]["memory_mib"]:
        mib = (f"{found[name]['memory_mib'][place]:,.0f}" for name in names)
        table.add_row(f"MiB, {place.replace('_', ' ')}", *mib)
    console = Console()
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in setting.items()), markup=False)
    for key in ("ratio", "ratio_tf32"):
        if key in found:
            plain = key.replace("ratio", "reference").replace("_", ", ")
            effort = f", by work of cores {found[key + '_per_core']:.1f}"
            console.print(f"harness ÷ {plain}: {found[key]:.1f}{effort}")


def _page(folder: str, output: str | None) -> None:
    from harness.benchmarks import figures

    text = figures.table(figures.load(Path(folder)))
    if output is None:
        print(text)
    else:
        figures.put_into(Path(output), text)
