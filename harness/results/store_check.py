"""Checks a store for records that are damaged, contradictory, or duplicates.

Tables leave damaged records out and say so; a duplicate experiment counts once. `harness list
problems` reads every file of every run; tables, which have to be fast, only the records.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.core.arrays import read_queries
from harness.core.errors import HarnessError
from harness.core.files import check_archive
from harness.results.row_labels import flat
from harness.results.store import EXPERIMENT, Run, describe

#: percentage points by which a recorded mAP may differ from the mean over its float32 queries
ROUNDING = 0.01


@dataclass(frozen=True)
class Problem:
    """run: its name. text: what is wrong. left_out: whether tables leave the run out."""

    run: str
    text: str
    left_out: bool = False

    def __str__(self) -> str:
        return f"{'left out' if self.left_out else 'note'}: {self.run}: {self.text}"


def record_problems(runs: Iterable[Run]) -> Iterator[Problem]:
    """What the records alone show: damage, other protocols' hashes, duplicates."""
    names: dict[tuple[Any, ...], str] = {}
    for run in runs:
        if run.problem:
            yield Problem(run.name, run.problem, left_out=True)
        elif run.finished:
            columns = describe(run)
            first = names.setdefault(tuple(columns[key] for key in EXPERIMENT), run.name)
            if first != run.name:
                yield Problem(run.name, f"is the same experiment as {first}, and counts once")


def file_problems(runs: Sequence[Run]) -> Iterator[Problem]:
    """All that can be checked without images and networks."""
    yield from record_problems(runs)
    for run in runs:
        found = [*_in_config(run)]
        try:
            run.history()
        except HarnessError as error:
            found.append(error.cause.removeprefix(f"{run.folder}: "))
        if run.finished:
            found += [*_in_record(run.record), *_in_queries(run), *_in_networks(run)]
        yield from (Problem(run.name, text) for text in found)


def _in_config(run: Run) -> Iterator[str]:
    """The configuration and the record have to be of one experiment."""
    try:
        config = flat(run.config())
    except HarnessError as error:
        cause = error.cause.removeprefix(f"{run.folder}: ").removeprefix(f"{run.folder} ")
        yield f"{cause.rstrip('.')}: its options are missing from row labels and for a rerun"
        return
    for key, option in (("method", "method.name"), ("seed", "seed")) if run.finished else ():
        value, recorded = config.get(option), run.record["experiment"][key]
        if value not in (None, recorded):
            yield f"config.json says {key} {value}, the record {recorded}"


def _in_record(record: dict[str, Any]) -> Iterator[str]:
    """Numbers that are impossible or contradict each other."""
    last = list(record["stages"].values())[-1]["metrics"]
    if record["metrics"] != last:
        yield "its metrics are not those of its last stage"
    for name, stage in record["stages"].items():
        for key, value in stage["metrics"].items():
            if (key == "mAP" or key.startswith("rank")) and not 0 <= value <= 100:
                yield f"{name}: {key} {value} is not a percentage"


def _in_networks(run: Run) -> Iterator[str]:
    """Networks that are there must be whole; committed records come without."""
    for stage in run.record["stages"]:
        path = run.folder / f"{stage}.pt"
        try:
            if path.is_file():
                if not zipfile.is_zipfile(path):
                    raise zipfile.BadZipFile("no archive of torch.save")
                check_archive(path)
        except (OSError, zipfile.BadZipFile, zlib.error, ValueError) as error:
            yield f"{path.name} is damaged ({error}): only overwrite=always makes it again"


def _in_queries(run: Run) -> Iterator[str]:
    """The mAP of a record is the mean over its queries."""
    path = run.folder / "per_query.npz"
    if not path.is_file():
        if run.record["metrics"]:
            yield ("per_query.npz is missing, which significance tests need: overwrite=backfill "
                   "restores it")  # fmt: skip
        return
    try:
        arrays = read_queries(path)
    except (OSError, ValueError) as error:
        yield f"per_query.npz cannot be read ({error}): overwrite=backfill restores it"
        return
    for name, stage in run.record["stages"].items():
        if not stage["metrics"]:
            continue
        try:
            ap, first = arrays[f"{name}_ap"], arrays[f"{name}_first_match_rank"]
        except KeyError as error:
            yield f"per_query.npz lacks {error}"
            continue
        found = ap[first > 0]
        mean, mAP = 100 * float(found.mean()) if len(found) else math.nan, stage["metrics"]["mAP"]
        if not abs(mean - mAP) <= ROUNDING:
            yield f"{name}: mAP {mAP:.2f} is not the mean of its queries, {mean:.2f}"
