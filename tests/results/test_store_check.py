"""What somebody did to a record is seen: by `harness list runs`, `list problems`, `table`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.results.store import Store
from harness.results.store_check import file_problems
from tests.conftest import Command
from tests.paths import LEADERBOARD
from tests.results.records import card, record, write


def healthy(store: Path, name: str, seed: int, **changes: Any) -> Path:
    """A run in whose files there is nothing wrong."""
    ap = np.random.default_rng(seed).random(40).astype(np.float32)
    content = record(seed=seed, dataset="synthetic", train=float(100 * ap.mean())) | changes
    for metrics in (content["metrics"], content["stages"]["train"]["metrics"]):
        metrics |= {"rank1": 60.0, "rank5": 70.0, "rank10": 80.0}
    folder = write(store, name, content)
    (folder / "config.json").write_text(json.dumps({"method": {"name": "mskd"}, "seed": seed}))
    arrays: dict[str, Any] = {"train_ap": ap, "train_first_match_rank": np.ones(40, int),
                              "query_identity": np.arange(40)}  # fmt: skip
    np.savez(folder / "per_query.npz", **arrays)
    return folder


def changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Alter the record of a run."""

    def tamper(folder: Path) -> None:
        path = folder / "record.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return tamper


def truncated(folder: Path) -> None:
    path = folder / "record.json"
    path.write_text(path.read_text()[:-60])


def without_queries(folder: Path) -> None:
    (folder / "per_query.npz").unlink()


def half_a_file(folder: Path) -> None:
    path = folder / "per_query.npz"
    path.write_bytes(path.read_bytes()[:300])


def cut(path: Path) -> None:
    path.write_text("{")


def better(record: dict[str, Any]) -> None:
    for metrics in (record["metrics"], record["stages"]["train"]["metrics"]):
        metrics["mAP"] += 1.5


OTHER = card(input="384x128")["hash"]
#: what is done → what is said of it, and whether tables do without the run
TAMPERED: dict[str, tuple[Callable[[Path], None], str, bool]] = {
    "another protocol's hash": (
        changed(lambda r: r["protocol"].update(hash=OTHER)), f"has protocol hash {OTHER}, but", True
    ),
    "another line of the card": (
        changed(lambda r: r["protocol"].update(input="384x128")), f"card gives {OTHER}", True
    ),
    "truncated": (truncated, "cannot be read", True),
    "no seed": (changed(lambda r: r["experiment"].pop("seed")), "lacks experiment.seed", True),
    "a seed in words": (
        changed(lambda r: r["experiment"].update(seed="0")), "has no valid experiment.seed", True
    ),
    "not a number": (
        changed(lambda r: r["metrics"].update(mAP=float("nan"))), "has no valid metrics.mAP", True
    ),
    "another seed": (
        changed(lambda r: r["experiment"].update(seed=7)),
        "config.json says seed 1, the record 7", False,
    ),
    "a better mAP": (changed(better), "is not the mean of its queries", False),
    "a better mAP above alone": (
        changed(lambda r: r["metrics"].update(mAP=99.0)), "not those of its last stage", False
    ),
    "no percentage": (
        changed(lambda r: r["stages"]["train"]["metrics"].update(rank1=130.0)),
        "rank1 130.0 is not a percentage", False,
    ),
    "no results by query": (without_queries, "per_query.npz is missing", False),
    "half of them": (half_a_file, "per_query.npz cannot be read", False),
    "no configuration": (lambda f: cut(f / "config.json"),
                         "config.json cannot be read", False),
    "no history": (lambda f: cut(f / "history.json"),
                   "history.json cannot be read", False),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_tampering_is_flagged(tmp_path: Path, command: Command, case: str) -> None:
    tamper, said, left_out = TAMPERED[case]
    for seed in range(3):
        healthy(tmp_path, f"run{seed}", seed)
    store = ["--store", str(tmp_path)]
    assert command("list", "problems", *store).out == "No problems.\n"
    tamper(tmp_path / "run1")
    told = command("list", "problems", *store).out
    assert told.startswith("run1   ") and said in told and len(told.splitlines()) <= 2
    table = command("table", *store)
    assert table.status == 0
    listed = command("list", "runs", *store).out.splitlines()[1]
    if left_out:
        assert "left out: run1: record.json" in table.err and said in table.err
        assert listed.startswith("run1   damaged: record.json") and said in listed
    else:
        assert "left out" not in table.err
    seeds = [line.split()[-1] for line in table.out.splitlines() if line.startswith("mskd")]
    assert seeds == (["2"] if left_out else ["3"])


@pytest.mark.parametrize("words", [("table",), ("table", "--cross"), ("report",)])
def test_a_store_of_damaged_records_alone(
    tmp_path: Path, command: Command, words: tuple[str, ...]
) -> None:
    write(tmp_path, "run", "{")
    answer = command(*words, "--store", str(tmp_path))
    assert answer.status == 2 and "(1 damaged)" in answer.err
    assert "harness list problems" in answer.err


def test_a_duplicate_counts_once_and_is_named(tmp_path: Path, command: Command) -> None:
    for seed in range(2):
        healthy(tmp_path, f"run{seed}", seed)
    healthy(tmp_path, "run1-copy", 1)
    said = "run1-copy: is the same experiment as run1, and counts once"
    store = ["--store", str(tmp_path)]
    table = command("table", *store)
    assert f"note: {said}" in table.err
    (row,) = (line for line in table.out.splitlines() if line.startswith("mskd"))
    assert row.split()[-1] == "2"
    assert said.replace(": ", "   ", 1) in command("list", "problems", *store).out
    for other in ({"settings": "22222222"}, {"protocol": card(input="64x32")}):
        healthy(tmp_path, f"other{len(other)}{sorted(other)}", 1, **other)
    assert len(list(file_problems(list(Store(tmp_path).runs())))) == 1, (
        "these are other experiments"
    )


def test_the_committed_records_are_sound() -> None:
    leaderboard = LEADERBOARD
    assert not list(file_problems(list(Store(leaderboard).runs())))
