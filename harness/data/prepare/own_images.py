"""`harness prepare dataset=folder source=DIR`: propose, confirm and write a CSV of own images."""

from __future__ import annotations

import csv
import io
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.core.errors import ConfigError, DataError
from harness.core.files import write_text
from harness.core.seeds import derive
from harness.data.identifiers import is_missing, number_cameras, whole_number
from harness.data.image_files import SUFFIXES
from harness.data.prepare.naming import NO_NAMING, Naming, ParsedName, custom_naming, parse_names
from harness.data.prepare.walk import walk
from harness.data.releases import shown
from harness.data.types import DISTRACTOR

NAME = "images.csv"
EXAMPLES = 10
JUNK = "-1"
#: options of the proposal, besides `source`
OPTIONS = ("pattern", "split_seed", "test_share")
#: the identity 0 of people who are numbered from 0
PERSON_0 = "person 0"
NO_TEST = "all images are for training, and evaluation is off"


@dataclass(frozen=True)
class Proposal:
    """The proposed CSV.

    rows: path, id, camera and split of each image.
    left_out: images whose names do not match. not_used: files that are not images, and hidden ones.
    notes: explanations of the split.
    """

    folder: Path
    naming: Naming
    rows: Sequence[ParsedName]
    left_out: Sequence[str]
    not_used: Sequence[str]
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
    files = walk(folder)
    paths = [name for name in files.found if _is_image(name)]
    not_used = [name for name in files.found if not _is_image(name)] + files.skipped
    if not paths:
        problem = f"{folder} contains no images ({', '.join(SUFFIXES)})"
        there = f"; there: {shown(not_used)}." if not_used else "."
        raise DataError(problem + there, "Check the path of the folder.")
    naming, names = parse_names(paths, custom)
    if not names:
        raise DataError(
            f"None of {len(paths):,} images matches pattern={naming.title}: {shown(paths)}",
            "The pattern is searched for in paths relative to the folder.",
        )
    matching = {name.path for name in names}
    names, camera_notes = _cameras(names)
    rows, notes = _split(names, seed, share)
    left_out = [path for path in paths if path not in matching]
    return Proposal(folder, naming, rows, left_out, not_used, [*camera_notes, *notes])


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


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _cameras(names: list[ParsedName]) -> tuple[list[ParsedName], list[str]]:
    """Names without cameras if these cannot be used, and why.

    A correct match is an image from another camera: with one camera, no query would have any.
    """
    without = sum(is_missing(name.camera) for name in names)
    if without == len(names):
        return names, []
    if without:
        note = f"{without:,} of {len(names):,} names have no camera: cameras are left out."
    elif len(np.unique(number_cameras([name.camera for name in names]))) == 1:
        note = (
            f"All names have camera {names[0].camera}. One camera counts as none: a match is any "
            "other image of the identity. If cameras are elsewhere in the names, use pattern=."
        )
    else:
        return names, []
    return [replace(name, camera="") for name in names], [note]


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
        few = round(share * len(images)) == 0
        reason = f"test_share={share:g} of {len(images)} identities" if few else _seen_once(names)
        return rows, [f"No test images ({reason}): {NO_TEST}.", *_dropped(len(names) - len(rows))]
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
        notes = ["Folder names indicate training, query and gallery images."]
        if any(row.split == "query" and _is_zero(row.id) for row in rows):
            why = "0 marks distractors, which no query can be"
            notes.append(f"Identity 0 is written as '{PERSON_0}': {why}.")
            rows = [replace(row, id=PERSON_0) if _is_zero(row.id) else row for row in rows]
        kept = [row for row in rows if not (row.split == "query" and row.id == JUNK)]
        return kept, [*notes, *_dropped(len(rows) - len(kept))]
    train = [row for row in rows if row.split == "train"]
    test = _with_queries([row for row in rows if row.split != "train"])
    if all(row.split == "gallery" for row in test):
        left = f"The {len(test):,} images in test folders are LEFT OUT ({_seen_once(names)})"
        return train, [f"{left}: {NO_TEST}."]
    note = "Folder names indicate training and test images."
    return [*train, *test], [note, _query_rule(names)]


def _seen_once(names: Sequence[ParsedName]) -> str:
    return "no identity is seen twice" + (" by different cameras" if names[0].camera else "")


def _dropped(count: int) -> list[str]:
    """A note on images that have no place in any split."""
    return [f"LEFT OUT: {count:,} images of identity {JUNK}, junk."] if count else []


def _query_rule(names: Sequence[ParsedName]) -> str:
    group = "identity and camera" if names[0].camera else "identity"
    return f"Queries are the first image of each {group}; the gallery is the rest."


def _is_zero(identity: str) -> bool:
    """Whether an identity would mark distractors in a gallery, see datasets/folder/README.md."""
    return whole_number(identity) == DISTRACTOR


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
        and not _is_zero(identity)
    ]
    ranked = sorted(candidates, key=lambda identity: derive(seed, "split", identity))
    return set(ranked[: round(share * len(images))])


def _with_queries(test: Sequence[ParsedName]) -> list[ParsedName]:
    """Make the first image of each identity and camera a query if the gallery keeps a match.

    A match is an image of the identity from another camera, if there are cameras.
    """
    groups = _by_identity(test).items()
    queries = {i.path for name, group in groups if not _is_zero(name) for i in _queries(group)}
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
        special = {"junk": sum(row.id == JUNK for row in rows)}
        if split == "gallery":
            special["distractors (identity 0)"] = sum(_is_zero(row.id) for row in rows)
        identities = {row.id for row in rows if not (split == "gallery" and _is_zero(row.id))}
        identities -= {"", JUNK}
        if rows:
            of = f" of {len(identities):,} identities" if identities else ""
            of += "".join(f", {count:,} {name}" for name, count in special.items() if count)
            lines.append(f"{split}: {len(rows):,} images{of}")
    cameras = {row.camera for row in proposal.rows} - {""}
    lines.append(f"cameras: {len(cameras):,}" if cameras else "cameras: unknown, which is fine")
    lines += proposal.notes
    if proposal.left_out:
        lines.append(
            f"LEFT OUT: {len(proposal.left_out):,} images whose names do not match: "
            f"{shown(proposal.left_out)}"
        )
    if proposal.not_used:
        lines.append(f"NOT USED: {len(proposal.not_used):,} others: {shown(proposal.not_used, 5)}")
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
