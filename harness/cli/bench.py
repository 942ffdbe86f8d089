"""`harness bench`: timings on this machine."""

from __future__ import annotations

from harness.cli.parser import Parser
from harness.core.errors import ConfigError


def main(arguments: list[str]) -> None:
    from harness.benchmarks import command

    if arguments[:1] and arguments[0] in command.ABOUT:
        command.main(arguments[0], arguments[1:], Parser)
        return
    parser = Parser(
        "bench",
        "harness bench labels",
        "Time labels or evaluation on random features. For the others: harness bench train --help.",
    )
    parser.add_argument("what", choices=["labels", "eval", *command.ABOUT])
    parser.add_argument("--size", default="market1501", choices=["market1501", "msmt17"])
    parser.add_argument("--images", type=int, help="labels: another number of images")
    parser.add_argument("--views", type=int, default=1, help="labels: views of each image")
    parser.add_argument("--sweep", action="store_true", help="labels: 4k to 32k images")
    parser.add_argument("--scale", type=float, default=1.0, help="eval: fraction of the test set")
    parser.add_argument("--rerank", action="store_true", help="eval: with re-ranking")
    parser.add_argument("--repeats", type=int, default=3, help="after one warm-up")
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = vars(parser.parse_args(arguments))
    labels_only, eval_only = ("images", "views", "sweep"), ("scale", "rerank")
    for key in eval_only if options["what"] == "labels" else labels_only:
        if options[key] != parser.get_default(key):
            raise ConfigError(f"harness bench {options['what']} has no --{key}.")
    if not 0 <= options["threads"] <= 1024:
        raise ConfigError(f"--threads {options['threads']} must be 0 (all) or more.")
    import torch

    from harness.benchmarks import evaluation, labels
    from harness.core.precision import resolve_device

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    options["device"] = str(resolve_device(options["device"]))
    kept = ("size", "repeats", "device", "json")
    if options["what"] == "labels":
        labels.run(**{key: options[key] for key in (*kept, *labels_only)})
    else:
        evaluation.run(**{key: options[key] for key in (*kept, *eval_only)})
