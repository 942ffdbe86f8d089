"""`harness embed`: features of one's own images by a trained network."""

from __future__ import annotations

import sys

from harness.cli.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser("embed", "harness embed RUN IMAGES --out features.npz")
    parser.usage = "harness embed MODEL IMAGES … --out FILE.npz [OPTION …]"
    parser.add_argument("model", help="a run, a file of harness export, or a name of the zoo")
    parser.add_argument("images", nargs="+", help="files, folders, lists (.txt), CSVs with `path`")
    parser.add_argument("--out", required=True, help=".npz to write: features, names, ids, cams")
    parser.add_argument("--views", default="global", choices=["global", "all"],
                        help="all: features (N, V, D) in place of (N, D)")  # fmt: skip
    parser.add_argument("--split", help="only these rows of a CSV: train, query or gallery")
    parser.add_argument("--root", metavar="DIR", help="of paths in lists; default: the list's")
    parser.add_argument("--on-bad-image", default="error", choices=["error", "skip"])
    parser.add_argument("--batch", type=int, default=128, help="images of a forward pass (128)")
    precisions = ["fp32", "tf32", "bf16", "fp16"]
    parser.add_argument("--precision", choices=precisions, help="default: that of the run")
    parser.add_argument("--stage", help="of a run; default: the last one")
    parser.add_store()
    parser.add_argument("--device", default="auto", help="auto (the default), cpu or cuda")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all cores")
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    options = parser.parse_intermixed_args(arguments)
    from rich.console import Console

    from harness.core.host_memory import keep_freed_memory
    from harness.core.progress import Reporter
    from harness.experiment.models.embed import embed_to_file
    from harness.experiment.models.inputs import find_images
    from harness.experiment.models.load import load_model
    from harness.experiment.standalone.report import Costs, check_output, make_output_folder

    costs = Costs(options.device, options.threads)
    target = check_output("--out", options.out, ".npz", options.force, {})
    assert target is not None
    images = find_images(options.images, root=options.root, split=options.split)
    model = load_model(
        options.model,
        stage=options.stage,
        device=str(costs.device),
        precision=options.precision,
        store=options.store,
    )
    make_output_folder("--out", target)
    reporter = Reporter(Console(stderr=True, highlight=False))
    for note in images.notes:
        reporter.say(note)
    reporter.say(f"{len(images):,} images; {model!r}; {costs.where}")
    if costs.device.type == "cpu":
        keep_freed_memory()
    done = embed_to_file(
        model,
        images,
        target,
        batch=options.batch,
        views=options.views,
        on_bad_image=options.on_bad_image,
        reporter=reporter,
    )
    if done.skipped:
        shown = ", ".join(done.skipped[:3]) + (", …" if len(done.skipped) > 3 else "")
        print(f"left out: {len(done.skipped)} images that cannot be decoded: {shown}",
              file=sys.stderr)  # fmt: skip
    shape = " × ".join(map(str, done.shape))
    print(f"features  {shape}, in {done.seconds:.1f} s\nwritten   {target}")
