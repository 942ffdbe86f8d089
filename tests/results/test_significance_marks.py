"""Which rows are bold, and what `harness table --compare` says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.errors import ConfigError
from harness.core.metrics import in_tables
from harness.results.comparisons import comparisons
from harness.results.significance_marks import _best_first, compare, mark_rows, significance_marks
from harness.results.table_model import leaderboard
from tests.conftest import Command
from tests.results.records import metrics, record, write

RNG = np.random.default_rng(0)
DIFFICULTY = RNG.random(200) * 0.5


def run(
    store: Path, name: str, lead: float, seed: int = 0, card: dict[str, Any] | None = None
) -> None:
    """A cell whose queries are found `lead` better than the common difficulty says."""
    ap = np.clip(DIFFICULTY + lead + 0.05 * np.random.default_rng(seed).random(200), 0, 1)
    first = np.where(ap > 0.5, 1, 20)
    content = record(name, seed=seed, card=card, train=float(100 * ap.mean()))
    content["metrics"]["rank1"] = content["stages"]["train"]["metrics"]["rank1"] = float(
        100 * (first == 1).mean()
    )
    folder = write(store, f"{name}-{seed}", content)
    arrays = {
        "train_ap": ap,
        "train_first_match_rank": first,
        "query_identity": np.arange(200) // 2,
    }
    np.savez(folder / "per_query.npz", **arrays)  # type: ignore[arg-type]


def test_rows_that_are_not_significantly_behind_are_bold_too(tmp_path: Path) -> None:
    run(tmp_path, "best", 0.30, seed=1)
    run(tmp_path, "near", 0.299, seed=2)
    run(tmp_path, "third", 0.1)
    run(tmp_path, "last", 0.0)
    (only,) = comparisons(tmp_path)
    found = significance_marks(only)["mAP"]
    assert found == {"best": "best", "near": "best", "third": "second"}
    text = compare(only, ["last", "best"])
    assert [(pair.a, pair.b) for pair in text] == [("best", "last")]
    assert text[0].difference.low > 25 and text[0].p < 1e-6 and text[0].by_identity
    assert text[0].difference.identities == 100


def test_identities_beyond_32_bits_are_distinguished(tmp_path: Path, command: Command) -> None:
    """Twenty identities with the same lower 32 bits."""
    for name, lead in (("one", 0.3), ("two", 0.0)):
        run(tmp_path, name, lead)
        path = tmp_path / f"{name}-0" / "per_query.npz"
        with np.load(path) as file:
            arrays: dict[str, Any] = dict(file)
        arrays["query_identity"] = (np.arange(200) // 10).astype(np.int64) << 32
        np.savez(path, **arrays)
    (only,) = comparisons(tmp_path)
    (pair,) = compare(only, [])
    assert pair.by_identity and pair.difference.identities == 20
    assert "20 identities" in command("table", "--store", str(tmp_path), "--compare").out


def test_identities_are_drawn_whatever_the_stage_is_called(tmp_path: Path) -> None:
    """`query_identity` is no array of a stage `query`."""
    for name, lead in (("one", 0.3), ("two", 0.0)):
        run(tmp_path, name, lead)
        folder = tmp_path / f"{name}-0"
        content = json.loads((folder / "record.json").read_text())
        content["stages"] = {"query": content["stages"]["train"]}
        (folder / "record.json").write_text(json.dumps(content))
        with np.load(folder / "per_query.npz") as file:
            arrays: dict[str, Any] = {k.replace("train_", "query_"): v for k, v in file.items()}
        np.savez(folder / "per_query.npz", **arrays)
    (only,) = comparisons(tmp_path)
    (pair,) = compare(only, [])
    assert pair.by_identity and pair.difference.identities == 100


def test_queries_of_one_identity_cannot_be_compared(tmp_path: Path) -> None:
    for name, lead in (("one", 0.3), ("two", 0.0)):
        run(tmp_path, name, lead)
        path = tmp_path / f"{name}-0" / "per_query.npz"
        with np.load(path) as file:
            arrays: dict[str, Any] = dict(file)
        np.savez(path, **{**arrays, "query_identity": np.zeros(200, int)})
    (only,) = comparisons(tmp_path)
    assert significance_marks(only) == {}
    with pytest.raises(ConfigError, match="fewer than two identities"):
        compare(only, [])


def test_without_results_by_query_nothing_is_bold(tmp_path: Path) -> None:
    run(tmp_path, "one", 0.3)
    write(tmp_path, "two-0", record("two", train=10.0))
    (only,) = comparisons(tmp_path)
    assert significance_marks(only) == {}
    with pytest.raises(ConfigError, match=r"runs of 'two' \(two-0\) lack per-query"):
        compare(only, [])


def test_of_equal_rows_the_same_one_is_best_in_any_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        run(tmp_path, name, 0.2)
    run(tmp_path, "d", 0.19, seed=5)
    (only,) = comparisons(tmp_path)
    for order in (only.rows, only.rows[::-1], only.rows.sample(frac=1, random_state=0)):
        assert _best_first(order, "mAP")[:3] == ["a", "b", "c"]
        assert mark_rows(tmp_path, order, in_tables()) == significance_marks(only)


def test_the_note_says_what_one_seed_shows(tmp_path: Path) -> None:
    for seed in range(2):
        run(tmp_path, "one", 0.1, seed=seed)
        run(tmp_path, "two", 0.0, seed=seed)
    warning = "Where a row has one seed, single networks are compared, not methods."
    (several,) = comparisons(tmp_path)
    assert warning not in "".join(leaderboard(several).notes)
    run(tmp_path, "three", 0.0)
    (mixed,) = comparisons(tmp_path)
    assert warning in "".join(leaderboard(mixed).notes)


def test_a_checkpoint_chosen_on_the_test_set_does_not_compete(tmp_path: Path) -> None:
    run(tmp_path, "one", 0.1)
    run(tmp_path, "two", 0.0)
    run(tmp_path, "oracle", 0.4, card={"selection": "oracle"})
    (only,) = comparisons(tmp_path)
    found = significance_marks(only)["mAP"]
    assert found == {"one": "best", "two": "second"}


def test_a_stage_before_the_last_does_not_compete_and_the_note_says_so(tmp_path: Path) -> None:
    run(tmp_path, "one", 0.1)
    run(tmp_path, "two", 0.0)
    (without,) = comparisons(tmp_path)
    path = tmp_path / "two-0" / "record.json"
    content = json.loads(path.read_text())
    content["stages"] = {"first": {**content["stages"]["train"], "metrics": metrics(99.0)},
                         **content["stages"]}  # fmt: skip
    path.write_text(json.dumps(content))
    (only,) = comparisons(tmp_path)
    assert significance_marks(only)["mAP"] == {"one": "best", "two": "second"}
    note = "Stages before the last do not compete."
    assert note in "".join(leaderboard(only).notes)
    assert note not in "".join(leaderboard(without).notes)


def test_command(command: Command, tmp_path: Path) -> None:
    for seed in range(3):
        run(tmp_path, "one", 0.2, seed=seed)
        run(tmp_path, "two", 0.1, seed=10 + seed)
    store = ["--store", str(tmp_path)]
    shown = command("table", *store, "--compare", "two", "one").out
    assert "one" in shown.splitlines()[2] and "< 0.001" in shown and "3, 3" in shown
    assert "100 identities" in shown and "and over seeds" in shown
    few = command("table", *store, "--where", "seed < 1 or seed == 10", "--compare").out
    few = " ".join(few.split())
    assert "1, 1" in few and "Where a row has one seed, single networks are compared" in few
    for words, said in {
        "--compare one tow": "There is no row 'tow'",
        "--where sead<1": "'sead<1': name 'sead' is not defined.\n  Did you mean 'seed'? Examples",
        "--where seed<": "'seed<': invalid syntax",
        "--where seed": "'seed': it is not true or false for each run",
        "--where method": "'method': it is not true or false",
        "--where seed<0": "No finished run fits",
        "--sort mapp": "no such column",
        "--by-dataset --metrics maP": "no metric 'maP'",
        "--by-dataset --compare": "--compare excludes",
        "--output x": "--output x: it has no ending",
    }.items():
        answer = command("table", *store, *words.split())
        assert answer.status == 2 and said in answer.err, (words, answer.err)


@pytest.mark.parametrize("trial", range(12))
def test_nothing_is_bold_alone_without_a_significant_lead(tmp_path: Path, trial: int) -> None:
    """Whatever the numbers: a row that is bold on its own beats every other significantly."""
    rng = np.random.default_rng(trial)
    for place in range(4):
        for seed in range(1 + trial % 3):
            run(tmp_path, f"m{place}", float(rng.choice([0.0, 0.01, 0.02, 0.1])), 10 * place + seed)
    (only,) = comparisons(tmp_path)
    found = significance_marks(only)
    labels = only.rows["method"].tolist()
    assert set(found) == {"mAP", "rank1", "rank5", "rank10"}
    for metric, mark in found.items():
        best = max(labels, key=lambda name: only.rows.set_index("method").loc[name, metric])
        marks = list(mark.values())
        assert mark[best] == "best" and marks.count("second") <= 1
        if marks.count("best") == 1:  # alone
            pairs = compare(only, [], metric)
            behind = [pair for pair in pairs if pair.a == best]
            assert len(behind) == len(labels) - 1
            assert all(pair.difference.low > 0 for pair in behind)


def test_a_damaged_file_of_queries_is_not_fatal(tmp_path: Path, command: Command) -> None:
    for name, lead in (("one", 0.3), ("two", 0.1)):
        run(tmp_path, name, lead)
    path = tmp_path / "one-0" / "per_query.npz"
    path.write_bytes(path.read_bytes()[:-200])
    (only,) = comparisons(tmp_path)
    assert significance_marks(only) == {}
    answer = command("table", "--store", str(tmp_path))
    assert answer.status == 0
    assert "Nothing is bold: the runs of some rows have no per-query results" in " ".join(
        answer.out.split()
    )
