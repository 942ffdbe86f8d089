"""`harness label`: pseudo-labels for features in a file."""

from __future__ import annotations

import json
import sys
from functools import partial

from harness.cli.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "label",
        "harness label FEATURES.npy labeler.eps=0.5 --out LABELS.npy",
        "Make pseudo-labels for features, without training. See harness list labelers.",
    )
    parser.add_argument("features", help=".npy, or .npz with `features`: (N, D) or (N, V, D)")
    parser.add_argument("changes", nargs="*", metavar="labeler[.KEY]=VALUE", help="its options")
    parser.add_argument("--out", required=True, help="the .npy to write: (N,), -1 for outliers")
    parser.add_argument("--cams", help=".npy, or .npz with `cams`, for labelers that use cameras")
    parser.add_compute()
    options = parser.parse_intermixed_args(arguments)
    import numpy as np

    from harness.core.files import write_atomically
    from harness.experiment.standalone.arrays import ArrayFile, integers
    from harness.experiment.standalone.features import feature_shape
    from harness.experiment.standalone.label import check_labeler, label, make_labeler
    from harness.experiment.standalone.report import Costs, check_output, make_output_folder

    say = partial(print, file=sys.stderr if options.json else sys.stdout, flush=True)
    name, labeler = make_labeler(*options.changes)
    costs = Costs(options.device, options.threads)
    file = ArrayFile(options.features)
    cams = ArrayFile(options.cams) if options.cams else None
    inputs = {"the feature file": file.path} | ({"the camera file": cams.path} if cams else {})
    target = check_output("--out", options.out, ".npy", options.force, inputs)
    assert target is not None
    features, where = file["features"], file.where("features")
    n, views, d = feature_shape(features, where)
    cameras = None if cams is None else integers(cams["cams"], cams.where("cams"), n)
    check_labeler(labeler, n, cameras)
    make_output_folder("--out", target)
    shown = f"{n} images, {views} view{'s' if views > 1 else ''} of {d}"
    say(f"{shown}; {name}: {labeler.describe()}; {costs.where}")

    made = label(features, labeler, cameras=cameras, device=costs.device, where=where)
    write_atomically(target, lambda out: np.save(out, made.labels))
    for note in made.notes:
        say(note)
    clusters, largest = len(made.sizes), int(made.sizes.max(initial=0))
    if options.json:
        result = {
            "labels": str(target),
            "labeler": {"name": name, "settings": labeler.describe()},
            "images": n,
            "views": views,
            "dimensions": d,
            **made.statistics,
            "clusters": clusters,
            "outliers": made.outliers,
            "largest_cluster": largest,
            **costs.as_dict(made.seconds, made.mib),
        }
        print(json.dumps(result, allow_nan=False))
        return
    if name == "bottom_up":
        say("This is the first round of bottom_up: every image is a cluster of its own.")
    say(f"clusters  {clusters}")
    say(f"outliers  {made.outliers} ({made.outliers / n:.1%})")
    say(f"largest   {largest} images")
    for line in costs.lines(made.seconds, made.mib):
        say(line)
    say(f"labels    {target}")
