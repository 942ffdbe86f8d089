"""`harness export`: a run's network as one file."""

from __future__ import annotations

from harness.cli.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "export",
        "harness export RUN --format onnx --output model.onnx",
        "Write the network of a finished run to one file that holds its preprocessing. Images "
        "(B, 3, H, W), normalized, become L2-normalized features (B, V, D).",
    )
    parser.add_argument("run", help="name of a run, the beginning of the name, or its folder")
    styles = ["onnx", "torchscript", "safetensors"]
    parser.add_argument("--format", default="onnx", choices=styles, help="default: onnx")
    parser.add_argument("--output", help="default: the run's name, in this folder")
    parser.add_argument("--stage", help="whose network is written; default: the last stage")
    parser.add_store()
    parser.add_argument("--force", action="store_true", help="overwrite an existing file")
    options = parser.parse_args(arguments)
    from harness.experiment.models.export import IMAGES, export_run

    path, made = export_run(
        options.run,
        options.format,
        stage=options.stage,
        output=options.output,
        store=options.store,
        force=options.force,
    )
    height, width = made.model.size
    views = ", ".join(made.model.views)
    print(f"input       (B, 3, {height}, {width}), normalized as the file's metadata say")
    print(f"output      (B, {len(made.model.views)}, {made.model.dim}): {views}")
    print(f"difference  {made.difference:.1e} at most, from the run's network on {IMAGES} images")
    print(f"written     {path} ({len(made.content) / 1e6:,.2f} MB)")
