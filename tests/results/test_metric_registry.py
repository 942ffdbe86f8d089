"""A metric that is declared once appears in records, tables, significance marks and the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.metrics import METRICS, Metric
from harness.evaluation.ranking import RankingResult
from harness.results.comparisons import comparisons
from harness.results.significance_marks import significance_marks
from harness.results.table_model import leaderboard
from tests.conftest import Command
from tests.results.records import record, write


def add(store: Path, method: str, lead: float, *without: str) -> None:
    """A run whose record and per-query results come from a ranking; `without` some arrays."""
    rng = np.random.default_rng(0)
    ap = np.clip(rng.random(120) * 0.4 + lead, 0, 1)
    found = RankingResult(ap, ap**2, np.where(ap > 0.5, 2, 9), 500)
    content = record(method, train=50.0)
    content["metrics"] = content["stages"]["train"]["metrics"] = found.as_dict()
    arrays: dict[str, Any] = {
        "train_ap": found.ap, "train_inp": found.inp,
        "train_first_match_rank": found.first_match_rank, "query_identity": np.arange(120),
    }  # fmt: skip
    folder = write(store, method, content)
    np.savez(folder / "per_query.npz", **{k: v for k, v in arrays.items() if k not in without})


@pytest.fixture
def rank3(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """Another metric: the share of queries without a match in the top 3, lower is better."""
    metric = Metric("miss3", "Miss-3", ("first_match_rank",), lambda first: first > 3,
                    decimals=2, higher_is_better=False)  # fmt: skip
    monkeypatch.setitem(METRICS, "miss3", metric)
    return metric


def test_a_new_metric_is_everywhere(tmp_path: Path, rank3: Metric, command: Command) -> None:
    add(tmp_path, "good", 0.4)
    add(tmp_path, "poor", 0.1)
    (only,) = comparisons(tmp_path, sort="miss3")
    values = dict(zip(only.rows["method"], only.rows["miss3"], strict=True))
    assert values["good"] < values["poor"] and only.rows["method"].tolist() == ["poor", "good"]
    assert significance_marks(only)["miss3"] == {"good": "best", "poor": "second"}
    table = leaderboard(only)
    place = [column.title for column in table.columns].index("Miss-3")
    assert [row[place].mark for row in table.rows] == ["second", "best"]
    assert table.rows[0][place].text == f"{values['poor']:.2f}"
    store = ["--store", str(tmp_path)]
    shown = command("table", *store, "--by-dataset", "--metrics", "miss3", "--format", "markdown")
    assert f"**{values['good']:.2f}**" in shown.out and "Miss-3" in shown.out
    compared = command("table", *store, "--compare", "--metrics", "miss3", "--format", "csv").out
    assert compared.splitlines()[1].startswith("good,poor,-")
    page = tmp_path / "page.html"
    assert command("report", *store, "--output", str(page)).status == 0
    assert "Miss-3" in page.read_text(encoding="utf-8")


def test_inp_is_tested_where_runs_kept_it(tmp_path: Path) -> None:
    add(tmp_path, "good", 0.4)
    add(tmp_path, "poor", 0.1)
    (only,) = comparisons(tmp_path)
    assert significance_marks(only)["mINP"] == {"good": "best", "poor": "second"}
    add(tmp_path, "older", 0.2, "train_inp")
    (only,) = comparisons(tmp_path)
    marks = significance_marks(only)
    assert "mINP" not in marks and marks["mAP"]["good"] == "best"


def test_records_from_before_a_metric_are_shown_without_it(tmp_path: Path) -> None:
    add(tmp_path, "good", 0.4)
    older = record("older", train=30.0)
    for metrics in (older["metrics"], older["stages"]["train"]["metrics"]):
        metrics.pop("mINP", None)
    write(tmp_path, "older", older)
    (only,) = comparisons(tmp_path)
    table = leaderboard(only)
    place = [column.title for column in table.columns].index("mINP")
    assert table.rows[0][place].text == "–"


def test_a_metric_out_of_the_default_table_can_be_requested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setitem(METRICS, "mINP", replace(METRICS["mINP"], in_tables=False))
    add(tmp_path, "good", 0.4)
    (only,) = comparisons(tmp_path)
    assert "mINP" not in [column.title for column in leaderboard(only).columns]
    out = command("table", "--store", str(tmp_path), "--by-dataset", "--metrics", "mINP").out
    assert "mINP" in out
