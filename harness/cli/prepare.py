"""`harness prepare`: unpack and check a data set."""

from __future__ import annotations

from harness.cli.parser import Parser


def main(arguments: list[str]) -> None:
    parser = Parser(
        "prepare",
        "harness prepare dataset=market1501 source=Market-1501-v15.09.15.zip",
        "Unpack a data set from an archive or folder under the data root, check its images and "
        "counts, fill the image cache, and print its card. Resumes where it was stopped.",
    )
    parser.add_argument(
        "changes",
        nargs="*",
        metavar="KEY=VALUE",
        help="dataset=NAME, source=ZIP|TAR|FOLDER, data.root=DIR, images.height=, dataset.KEY=; "
        "for dataset=folder: pattern=REGEX, split_seed=0, test_share=0.5",
    )
    parser.add_argument("--yes", action="store_true", help="accept the CSV of dataset=folder")
    parser.add_argument("--json", action="store_true", help="print the card as JSON")
    options = parser.parse_intermixed_args(arguments)
    from harness.experiment.prepare import prepare

    prepare(**vars(options))
