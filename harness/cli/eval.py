"""`harness eval`: test a finished run again."""

from __future__ import annotations

import argparse
import json
import sys

from harness.cli.parser import Parser
from harness.core.errors import ConfigError


def main(arguments: list[str]) -> None:
    parser = Parser("eval", "harness eval RUN --rerank")
    parser.usage = "harness eval RUN [dataset=NAME] [dataset.KEY=VALUE …] [OPTION …]"
    parser.add_argument("run", help="name of a run, the beginning of the name, or its folder")
    moved = "dataset=OTHER, or dataset.KEY=VALUE if files have moved"
    parser.add_argument("changes", nargs="*", metavar="CHANGE", help=moved)
    parser.add_argument("--stage", help="whose network is tested; default: the last stage")
    parser.add_argument("--rerank", action="store_true", help="with k-reciprocal re-ranking")
    parser.add_argument("--k1", type=int, default=20, metavar="K", help="its neighbours (20)")
    parser.add_argument("--k2", type=int, default=6, metavar="K", help="its query expansion (6)")
    parser.add_argument("--lambda", dest="lam", type=float, default=0.3, metavar="L",
                        help="its weight of the original distance (0.3)")  # fmt: skip
    parser.add_argument("--ranks", type=_numbers, help="others: 1,3,50")
    parser.add_argument("--no-cams", action="store_true", help="ignore cameras")
    parser.add_argument("--images", action="store_true", help="ignore features that were kept")
    parser.add_argument("--save", action="store_true", help="write the result beside the record")
    parser.add_store()
    parser.add_data()
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_intermixed_args(arguments)
    if not options.rerank and (options.k1, options.k2, options.lam) != (20, 6, 0.3):
        raise ConfigError("--k1, --k2 and --lambda apply to re-ranking.", "Add --rerank.")
    from rich.console import Console

    from harness.core.progress import Reporter
    from harness.evaluation.protocol import EvaluationProtocol
    from harness.experiment.evaluate import describe, evaluate_run

    ranks = {"ranks": options.ranks} if options.ranks else {}
    protocol = EvaluationProtocol(
        options.rerank, options.k1, options.k2, options.lam, not options.no_cams, **ranks
    )
    answer = evaluate_run(
        options.run,
        options.changes,
        stage=options.stage,
        protocol=protocol,
        store=options.store,
        data_root=options.data_root,
        cache_dir=options.cache,
        device=options.device,
        images=options.images,
        save=options.save,
        reporter=Reporter(Console(stderr=True, highlight=False)) if options.json else None,
    )
    if written := answer.pop("written", None):
        print(f"written: {written}", file=sys.stderr)
    print(json.dumps(answer) if options.json else describe(answer))


def _numbers(text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise argparse.ArgumentTypeError(f"'{text}' must be numbers of 1 or more, as 1,3,50")
    return tuple(map(int, words))
