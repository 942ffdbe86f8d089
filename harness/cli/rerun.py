"""`harness rerun`: repeat or resume runs from their stored configuration."""

from __future__ import annotations

from harness.cli.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "rerun",
        "harness rerun --failed",
        "Run what failed or is unfinished again, with the settings in its config.json.",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="names or beginnings; default: all")
    parser.add_argument("--failed", action="store_true", help="only runs that failed")
    parser.add_store()
    parser.epilog = (
        "KEY=VALUE gives new locations: data.root=DIR data.cache_dir=DIR device=cpu threads=2 "
        "log=tensorboard backbone.weights=FILE."
    )
    options = parser.parse_intermixed_args(arguments)
    from harness.experiment.rerun import rerun

    changes = [word for word in options.runs if "=" in word]
    names = [word for word in options.runs if "=" not in word]
    rerun(names, changes, options.failed, options.store)
