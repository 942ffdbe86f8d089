"""`harness prepare dataset=folder source=DIR`: propose, confirm and write a CSV of own images."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.core.errors import ConfigError, DataError
from harness.core.files import write_text
from harness.core.seeds import derive
from harness.data.prepare.layouts import IGNORED
from harness.data.prepare.naming import NO_NAMING, Naming, ParsedName, custom_naming, parse_names
from harness.data.releases import shown

NAME = "images.csv"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
EXAMPLES = 10
JUNK = "-1"
#: options of the proposal, besides `source`
OPTIONS = ("pattern", "split_seed", "test_share")
NO_TEST = "all images are for training, and evaluation is off"


@dataclass(frozen=True)
class Proposal:
    """The proposed CSV.

    rows: path, id, camera and split of each image.
    left_out: images whose names do not match.
    notes: explanations of the split.
    """

    folder: Path
    naming: Naming
    rows: Sequence[ParsedName]
    left_out: Sequence[str]
    notes: Sequence[str]

    @property
    def text(self) -> str:
        """The CSV."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(("path", "id", "camera", "split"))
        writer.writerows((row.path, row.id, row.camera, row.split) for row in self.rows)
        return buffer.getvalue()


def propose(folder: Path, options: Mapping[str, str]) -> Proposal:
    """Parse the names of all images under a folder and split them by identity.

    Options are `pattern`, a regular expression with the groups id, camera, split; `split_seed`,
    which selects other test identities; `test_share`, the share of test identities.

    Raises:
        ConfigError: an option is invalid.
        DataError: there is no folder, or no image, or no name matches.
    """
    seed, share = _parse_numbers(options)
    custom = custom_naming(options["pattern"]) if "pattern" in options else None
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder.",
            "Own images must be in a folder: unpack an archive first and give its folder.",
        )
    paths = _list_images(folder)
    if not paths:
        problem = f"{folder} contains no images ({', '.join(SUFFIXES)})."
        raise DataError(problem, "Check the path of the folder.")
    naming, names = parse_names(paths, custom)
    if not names:
        raise DataError(
            f"None of {len(paths):,} images matches pattern={naming.title}: {shown(paths)}",
            "The pattern is searched for in paths relative to the folder.",
        )
    matching = {name.path for name in names}
    rows, notes = _split(names, seed, share)
    return Proposal(folder, naming, rows, [p for p in paths if p not in matching], notes)


def _parse_numbers(options: Mapping[str, str]) -> tuple[int, float]:
    try:
        seed, share = int(options.get("split_seed", 0)), float(options.get("test_share", 0.5))
    except ValueError:
        seed, share = -1, -1.0
    if seed < 0 or not 0 <= share < 1:
        raise ConfigError(
            "split_seed must be a whole number ≥ 0, and test_share a share of the identities < 1.",
            "For example split_seed=0 test_share=0.5; test_share=0 uses all for training.",
        )
    return seed, share


def _list_images(folder: Path) -> list[str]:
    """Sorted paths of all image files, without hidden ones; links to folders are not followed."""
    paths = []
    for current, folders, names in os.walk(folder):
        folders[:] = [n for n in folders if not n.startswith(".") and n not in IGNORED]
        inner = Path(current).relative_to(folder).as_posix()
        wanted = [n for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
        paths += [name if inner == "." else f"{inner}/{name}" for name in wanted]
    return sorted(paths)


def _split(
    names: Sequence[ParsedName], seed: int, share: float
) -> tuple[list[ParsedName], list[str]]:
    """Assign a split to each image; returns rows and explanations."""
    if not all(name.id for name in names):
        rows = [replace(name, id="", split="train") for name in names]
        return rows, [f"No identities: {NO_TEST}."]
    splits = {name.split for name in names}
    if "" not in splits and splits & {"test", "gallery"}:
        return _split_by_folders(names, splits)
    images = _by_identity(names)
    tested = _test_identities(images, seed, share)
    rows = [replace(n, split="train") for n in names if n.id not in tested and n.id != JUNK]
    if not tested:
        cameras = " by different cameras" if names[0].camera else ""
        reason = "test_share=0" if share == 0 else f"no identity is seen twice{cameras}"
        return rows, [f"No test images ({reason}): {NO_TEST}."]
    rows += _with_queries([name for name in names if name.id in tested or name.id == JUNK])
    note = (
        f"Split by identity: {len(tested):,} of {len(images):,} identities are for testing, drawn "
        f"with split_seed={seed}, test_share={share:g}."
    )
    return rows, [note, _query_rule(names)]


def _split_by_folders(
    names: Sequence[ParsedName], splits: set[str]
) -> tuple[list[ParsedName], list[str]]:
    """Splits by folder names; queries are selected unless there is a folder of them."""
    rows = [replace(n, split="gallery") if n.split == "test" else n for n in names]
    if "query" in splits:
        rows = [row for row in rows if not (row.split == "query" and row.id == JUNK)]
        return rows, ["Folder names indicate training, query and gallery images."]
    train = [row for row in rows if row.split == "train"]
    test = _with_queries([row for row in rows if row.split != "train"])
    note = "Folder names indicate training and test images."
    return [*train, *test], [note, _query_rule(names)]


def _query_rule(names: Sequence[ParsedName]) -> str:
    group = "identity and camera" if names[0].camera else "identity"
    return f"Queries are the first image of each {group}; the gallery is the rest."


def _by_identity(names: Sequence[ParsedName]) -> dict[str, list[ParsedName]]:
    """Images by identity, without junk."""
    images: dict[str, list[ParsedName]] = defaultdict(list)
    for name in names:
        if name.id != JUNK:
            images[name.id].append(name)
    return images


def _test_identities(
    images: Mapping[str, Sequence[ParsedName]], seed: int, share: float
) -> set[str]:
    """Test identities, selected by a hash of (seed, identity) among those with a possible match."""
    candidates = [
        identity
        for identity, group in images.items()
        if len({image.camera for image in group} if group[0].camera else group) > 1
        and identity.strip("0")  # 0 in a gallery is a distractor, see datasets/folder/README.md
    ]
    ranked = sorted(candidates, key=lambda identity: derive(seed, "split", identity))
    return set(ranked[: round(share * len(images))])


def _with_queries(test: Sequence[ParsedName]) -> list[ParsedName]:
    """Make the first image of each identity and camera a query if the gallery keeps a match.

    A match is an image of the identity from another camera, if there are cameras.
    """
    queries = {image.path for group in _by_identity(test).values() for image in _queries(group)}
    return [replace(n, split="query" if n.path in queries else "gallery") for n in test]


def _queries(images: Sequence[ParsedName]) -> list[ParsedName]:
    """The queries of one identity."""
    firsts: dict[str, ParsedName] = {}
    for image in sorted(images, key=lambda image: image.path):
        firsts.setdefault(image.camera, image)
    queries: list[ParsedName] = []
    for first in firsts.values():
        gallery = [image for image in images if image not in (*queries, first)]
        if all(
            any(not image.camera or image.camera != query.camera for image in gallery)
            for query in (*queries, first)
        ):
            queries.append(first)
    return queries


def show(proposal: Proposal, console: Console) -> None:
    """Print a summary of the proposal with ten examples."""
    rows = proposal.rows
    grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("path", "id", "camera", "split"):
        grid.add_column(column, overflow="fold")
    ordered = sorted(rows, key=lambda row: ("train", "query", "gallery").index(row.split))
    last = len(rows) - 1
    for index in sorted({round(last * i / (EXAMPLES - 1)) for i in range(EXAMPLES)}):
        row = ordered[index]
        grid.add_row(*map(Text, (row.path, row.id or "–", row.camera or "–", row.split)))
    first = f"{proposal.folder}: {len(rows):,} images, named like\n  {proposal.naming.title}"
    console.print(first, markup=False, soft_wrap=True)
    console.print(grid)
    for line in _summary(proposal):
        console.print(line, markup=False, soft_wrap=True)


def _summary(proposal: Proposal) -> list[str]:
    lines = []
    for split in ("train", "query", "gallery"):
        rows = [row for row in proposal.rows if row.split == split]
        identities = {row.id for row in rows} - {"", JUNK}
        if rows:
            of = f" of {len(identities):,} identities" if identities else ""
            lines.append(f"{split}: {len(rows):,} images{of}")
    cameras = {row.camera for row in proposal.rows} - {""}
    lines.append(f"cameras: {len(cameras):,}" if cameras else "cameras: unknown, which is fine")
    lines += proposal.notes
    if proposal.left_out:
        lines.append(
            f"LEFT OUT: {len(proposal.left_out):,} images whose names do not match: "
            f"{shown(proposal.left_out)}"
        )
    if proposal.naming is NO_NAMING or proposal.left_out:
        lines.append(
            "For other names, give a pattern to search for in each path: "
            r"pattern='(?P<id>\d+)_cam(?P<camera>\d+)'."
        )
    return lines


def confirm(proposal: Proposal, target: Path, yes: bool, console: Console) -> None:
    """Show a proposal and write it if the user agrees; raises ConfigError otherwise."""
    show(proposal, console)
    if not yes:
        hint = (
            f"Repeat the command with --yes to write {target}; or describe the names with "
            "pattern=, or write the file by hand: path,id,camera,split."
        )
        if not sys.stdin.isatty():
            raise ConfigError("There is no terminal to confirm this.", hint)
        print(f"Write {target}? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
            raise ConfigError("Nothing was written.", hint)
    write_text(target, proposal.text)
    console.print(f"{target} written.", markup=False, soft_wrap=True)
