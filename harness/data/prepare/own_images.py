"""`harness prepare dataset=folder source=DIR`: a CSV of own images, proposed and confirmed."""

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
from harness.data.prepare.naming import NOTHING, Naming, Told, own, read
from harness.data.releases import shown

NAME = "images.csv"
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
SHOWN = 10
JUNK = "-1"
#: of the proposal, beside `source`
OPTIONS = ("pattern", "split_seed", "test_share")


@dataclass(frozen=True)
class Proposal:
    """What is to be written.

    rows: path, id, camera and split of each image. left_out: images whose names do not fit.
    notes: how it came about, a sentence each.
    """

    folder: Path
    naming: Naming
    rows: Sequence[Told]
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
    """Read the names of all images under a folder, and split them by identity.

    Args:
        options: of `OPTIONS`: `pattern`, a regular expression with the groups id, camera, split;
            `split_seed`, another draw of the people to test on; `test_share`, how many of them.

    Raises:
        ConfigError: options that are none. DataError: no folder, no images, or none that fits.
    """
    seed, share = _numbers(options)
    naming = own(options["pattern"]) if "pattern" in options else None
    if not folder.is_dir():
        raise DataError(
            f"{folder} is no folder.",
            "Images of your own lie in a folder: unpack an archive first, and give its folder.",
        )
    paths = _images(folder)
    if not paths:
        raise DataError(
            f"{folder} holds no images ({', '.join(SUFFIXES)}).", "Is it the right one?"
        )
    naming, told = read(paths, naming)
    if not told:
        raise DataError(
            f"None of {len(paths):,} images fits pattern={naming.title}: {shown(paths)}",
            "It is searched for in paths relative to the folder.",
        )
    fitting = {each.path for each in told}
    rows, notes = _split(told, seed, share)
    left_out = [path for path in paths if path not in fitting]
    return Proposal(folder, naming, rows, left_out, notes)


def _numbers(options: Mapping[str, str]) -> tuple[int, float]:
    try:
        seed, share = int(options.get("split_seed", 0)), float(options.get("test_share", 0.5))
    except ValueError:
        seed, share = -1, -1.0
    if seed < 0 or not 0 <= share < 1:
        raise ConfigError(
            "split_seed is a whole number from 0, test_share a share of the people below 1.",
            "For example split_seed=0 test_share=0.5; test_share=0 trains on all of them.",
        )
    return seed, share


def _images(folder: Path) -> list[str]:
    """All image files, by path; hidden ones left out, links to folders not followed."""
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [n for n in folders if not n.startswith(".") and n not in IGNORED]
        inner = Path(place).relative_to(folder).as_posix()
        wanted = [n for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
        found += [name if inner == "." else f"{inner}/{name}" for name in wanted]
    return sorted(found)


# ------------------------------------------------------------------------------------ splitting


def _split(told: Sequence[Told], seed: int, share: float) -> tuple[list[Told], list[str]]:
    """What each image is for, and how that was found."""
    if not all(each.id for each in told):
        rows = [replace(each, id="", split="train") for each in told]
        return rows, ["No identities: all images are for training, and evaluation is off."]
    said = {each.split for each in told}
    if said <= {"train", "query", "gallery"} and {"query", "gallery"} <= said:
        return _usable(list(told)), ["Folders say what is for training, queries and gallery."]
    if "" not in said and said & {"test", "gallery"}:
        given = [replace(e, split="gallery" if e.split == "test" else e.split) for e in told]
        if "query" in said:
            return _usable(given), ["Folders say what is for training, queries and gallery."]
        kept = [each for each in given if each.split == "train"]
        asked = _with_queries([each for each in given if each.split != "train"])
        return [*kept, *asked], ["Folders say what is for training and testing.", _rule(told)]
    people = _people(told)
    tested = _drawn(people, seed, share)
    if not tested:
        rows = [replace(each, split="train") for each in told if each.id != JUNK]
        why = "test_share=0" if share == 0 else "nobody is seen twice" + (
            " by different cameras" if told[0].camera else "")  # fmt: skip
        return rows, [f"No test part ({why}): all images are for training, evaluation is off."]
    rows = [replace(e, split="train") for e in told if e.id not in tested and e.id != JUNK]
    rows += _with_queries([each for each in told if each.id in tested or each.id == JUNK])
    note = (
        f"Split by identity: {len(tested):,} of {len(people):,} people are tested on, drawn with "
        f"split_seed={seed}, test_share={share:g}."
    )
    return rows, [note, _rule(told)]


def _rule(told: Sequence[Told]) -> str:
    each = "person and camera" if told[0].camera else "person"
    return f"Queries are the first image of each {each}; the gallery is the rest."


def _usable(rows: list[Told]) -> list[Told]:
    """Queries that are junk are none."""
    return [row for row in rows if not (row.split == "query" and row.id == JUNK)]


def _people(told: Sequence[Told]) -> dict[str, list[Told]]:
    found: dict[str, list[Told]] = defaultdict(list)
    for each in told:
        if each.id != JUNK:
            found[each.id].append(each)
    return found


def _drawn(people: Mapping[str, Sequence[Told]], seed: int, share: float) -> set[str]:
    """People to test on: by a hash of (seed, identity), of those that can be found again."""
    can = [
        identity
        for identity, images in people.items()
        if len({each.camera for each in images} if images[0].camera else images) > 1
        and identity.strip("0")  # a gallery's 0 is nobody: see datasets/folder/README.md
    ]
    ranked = sorted(can, key=lambda identity: derive(seed, "split", identity))
    return set(ranked[: round(share * len(people))])


def _with_queries(test: Sequence[Told]) -> list[Told]:
    """The first image of each person and camera as a query, as far as the gallery keeps an answer
    to each: an image of that person, of another camera where there are cameras.
    """
    people = _people(test).values()
    asked = {image.path for images in people for image in _queries(sorted(images, key=_path))}
    return [replace(e, split="query" if e.path in asked else "gallery") for e in test]


def _path(told: Told) -> str:
    return told.path


def _queries(images: Sequence[Told]) -> list[Told]:
    """Of one person."""
    firsts: dict[str, Told] = {}
    for image in images:
        firsts.setdefault(image.camera, image)
    chosen: list[Told] = []
    for first in firsts.values():
        gallery = [image for image in images if image not in chosen and image is not first]
        if all(
            any(not image.camera or image.camera != query.camera for image in gallery)
            for query in (*chosen, first)
        ):
            chosen.append(first)
    return chosen


# ------------------------------------------------------------------------- shown and confirmed


def show(proposal: Proposal, target: Path, console: Console) -> None:
    """Print what would be written, with ten examples."""
    rows = proposal.rows
    console.print(
        f"{proposal.folder}: {len(rows):,} images, named like", markup=False, soft_wrap=True
    )
    console.print(f"  {proposal.naming.title}", markup=False, soft_wrap=True)
    grid = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("path", "id", "camera", "split"):
        grid.add_column(column, overflow="fold")
    ordered = sorted(rows, key=lambda row: ("train", "query", "gallery").index(row.split))
    last = len(rows) - 1
    for place in sorted({round(last * i / (SHOWN - 1)) for i in range(SHOWN)}):
        row = ordered[place]
        grid.add_row(*map(Text, (row.path, row.id or "–", row.camera or "–", row.split)))
    console.print(grid)
    for line in _counts(proposal):
        console.print(line, markup=False, soft_wrap=True)


def _counts(proposal: Proposal) -> list[str]:
    lines = []
    for split in ("train", "query", "gallery"):
        mine = [row for row in proposal.rows if row.split == split]
        people = {row.id for row in mine} - {"", JUNK}
        if mine:
            who = f" of {len(people):,} people" if people else ""
            lines.append(f"{split}: {len(mine):,} images{who}")
    cameras = {row.camera for row in proposal.rows} - {""}
    lines.append(f"cameras: {len(cameras):,}" if cameras else "cameras: not known, which is fine")
    lines += proposal.notes
    if proposal.left_out:
        lines.append(
            f"LEFT OUT: {len(proposal.left_out):,} images whose names do not fit: "
            f"{shown(proposal.left_out)}"
        )
    if proposal.naming is NOTHING or proposal.left_out:
        lines.append(
            "Other names? Describe them: "
            r"pattern='(?P<id>\d+)_cam(?P<camera>\d+)', searched for in each path."
        )
    return lines


def confirm(proposal: Proposal, target: Path, yes: bool, console: Console) -> None:
    """Show a proposal and, once a person has agreed, write it.

    Raises:
        ConfigError: nobody is there to agree, or the person does not.
    """
    show(proposal, target, console)
    if not yes:
        hint = (
            f"Give the same command with --yes to write {target}; or describe the names with "
            "pattern=, or write that file by hand: path,id,camera,split."
        )
        if not sys.stdin.isatty():
            raise ConfigError("Nobody is there to confirm this.", hint)
        print(f"Write {target}? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().casefold() not in ("y", "yes"):
            raise ConfigError("Nothing was written.", hint)
    write_text(target, proposal.text)
    console.print(f"{target} written.", markup=False, soft_wrap=True)
