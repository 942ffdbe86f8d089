"""`harness score`: mAP and Rank-k of features in files."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

from harness.cli.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "score",
        "harness score QUERY.npz GALLERY.npz --rerank",
        "Rank a gallery for each query and compute mAP, Rank-k and mINP. Arrays: features (N, D) "
        "or (N, V, D), ids (N,), and optionally cams (N,) and names (N,).",
    )
    parser.add_argument("query", help=".npz of the queries")
    parser.add_argument("gallery", help=".npz of the gallery")
    parser.add_argument("--rerank", action="store_true", help="also with k-reciprocal re-ranking")
    parser.add_argument("--no-cams", action="store_true", help="ignore cameras")
    parser.add_argument("--out", help="the .json to write")
    parser.add_argument("--per-query", help="the .npz to write: AP, INP and first match per query")
    parser.add_compute()
    options = parser.parse_args(arguments)
    import numpy as np

    from harness.core.files import write_atomically, write_json
    from harness.core.metrics import METRICS
    from harness.experiment.standalone.arrays import ArrayFile
    from harness.experiment.standalone.report import Costs, check_output, make_output_folder
    from harness.experiment.standalone.score import score

    say = partial(print, file=sys.stderr if options.json else sys.stdout, flush=True)
    costs = Costs(options.device, options.threads)
    query, gallery = ArrayFile(options.query), ArrayFile(options.gallery)
    inputs = {"the query file": query.path, "the gallery file": gallery.path}
    target = check_output("--out", options.out, ".json", options.force, inputs)
    details = check_output("--per-query", options.per_query, ".npz", options.force, inputs)
    make_output_folder("--out", target)
    make_output_folder("--per-query", details)

    scores = score(
        query, gallery, rerank=options.rerank, use_cams=not options.no_cams, device=costs.device
    )
    counts = scores.ranking.as_dict()
    result: dict[str, Any] = {
        "query": str(query.path),
        "gallery": str(gallery.path),
        "cameras": scores.query.cams is not None,
        "queries": counts["queries"],
        "queries_without_match": counts["queries_without_match"],
        "gallery_images": counts["gallery"],
    }
    for name, ranking in scores.results.items():
        result[name] = {k: v for k, v in ranking.as_dict().items() if k in METRICS}
    result |= costs.as_dict(scores.seconds, scores.mib)
    if target is not None:
        write_json(target, result)
    if details is not None:
        arrays = scores.per_query()
        write_atomically(details, lambda file: np.savez_compressed(file, **arrays))
    say(f"{counts['queries']} queries, {counts['gallery']} gallery images; {costs.where}")
    for note in scores.notes:
        say(note)
    if options.json:
        print(json.dumps(result, allow_nan=False))
        return
    for name in scores.results:
        metrics = result[name]
        ranks = "  ".join(f"Rank-{key[4:]} {metrics[key]:.1f}" for key in metrics if "rank" in key)
        shown = "ranking" if name == "metrics" else "re-ranked"
        say(f"{shown:<9} mAP {metrics['mAP']:.1f}  {ranks}  mINP {metrics['mINP']:.1f}")
    say(f"queries   {counts['queries']}, {counts['queries_without_match']} without a match")
    for line in costs.lines(scores.seconds, scores.mib):
        say(line)
    for path in filter(None, (target, details)):
        say(f"written   {path}")
