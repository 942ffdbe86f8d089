"""Costs in tables are those that `harness bench methods` measured under the same protocol."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.results.comparisons import comparisons
from harness.results.formats import FORMATS
from harness.results.measured_costs import measurements
from harness.results.report.chart_data import chart_data
from harness.results.report.charts import charts
from harness.results.report.page import render
from harness.results.store import Store
from harness.results.table_model import leaderboard
from tests.results.records import CARD, card, measure, put, record, write

MARKET = {"name": "market1501"}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    write(folder, "a", record("mskd"))
    write(folder, "b", record("cluster_contrast", train=50.0))
    write(folder, "c", record("ice", train=40.0))
    return folder


def shown(store: Path, *titles: str) -> dict[str, list[str]]:
    """Some columns of the only table."""
    (found,) = comparisons(store)
    table = leaderboard(found)
    heads = [column.title for column in table.columns]
    return {row[0].text: [row[heads.index(title)].text for title in titles] for row in table.rows}


def test_costs_stand_beside_accuracy(store: Path) -> None:
    (before,) = comparisons(store)
    text = FORMATS["markdown"]([leaderboard(before)])
    assert not any(word in text for word in ("Cost", "Images/s", "Hours")), "runs tell no speed"
    measure(store, "epyc", mskd=2.4, cluster_contrast=1.0)
    assert shown(store, "Images/s", "Hours", "Cost × cluster_contrast") == {
        "mskd": ["18", "12.00", "2.40"], "mskd (teacher)": ["12", "4.80", "0.96"],
        "cluster_contrast": ["30", "5.00", "1.00"], "ice": ["–", "–", "–"],
    }  # fmt: skip
    (found,) = comparisons(store)
    (note,) = (note for note in leaderboard(found).notes if "bench methods" in note)
    assert "EPYC, 2 cores, 2026-01-01; other work took at most 9% of the CPU" in note
    assert "Cost × cluster_contrast" in render(store) and "took at most 9%" in render(store)


def test_tables_are_sorted_by_cost(store: Path) -> None:
    measure(store, "epyc", mskd=2.4, cluster_contrast=1.0)
    (found,) = comparisons(store, sort="cost")
    assert list(found.rows["method"]) == ["ice", "mskd (teacher)", "cluster_contrast", "mskd"]


def test_charts_show_measured_costs(store: Path) -> None:
    measure(store, "epyc", mskd=2.4, cluster_contrast=1.0)
    (found,) = comparisons(store)
    runs = {run.name: run for run in Store(store).runs()}
    data = chart_data(found, runs, 16)
    drawn = {chart.name: chart for chart in charts(data)}
    cost = drawn["cost"].numbers
    assert cost["Cost"].to_dict() == {"mskd": "2.40", "mskd (teacher)": "0.96",
                                      "cluster_contrast": "1.00"}  # fmt: skip
    assert "Not timed: ice." in drawn["cost"].note
    time = drawn["time"].numbers  # all stages of a method are in its row
    assert time.loc["mskd"].to_dict() == {"extract": "3.00", "train": "6.00", "test": "3.00"}
    assert set(time.index) == {"mskd", "cluster_contrast"}


def test_variants_have_no_cost(store: Path) -> None:
    measure(store, "epyc", cluster_contrast=1.0, mskd=2.4)
    write(store, "d", record("cluster_contrast", settings="22222222", train=51.0))
    costs = {name: cost for name, (cost,) in shown(store, "Cost × cluster_contrast").items()}
    assert costs.pop("mskd") == "2.40" and costs.pop("mskd (teacher)") == "0.96"
    assert set(costs.values()) == {"–"} and len(costs) == 3


def test_another_protocol_data_set_or_a_disturbed_measurement_is_none(store: Path) -> None:
    result = measure(store, "epyc", mskd=2.4)
    assert measurements(store, MARKET, CARD)
    assert not measurements(store, MARKET, card(input="128x64"))
    assert not measurements(store, {"name": "msmt17"}, CARD)
    assert measurements(store, MARKET, card(weights="others", cameras=False))
    put(store, "epyc", result | {"disturbed": ["other work"]})
    assert not measurements(store, MARKET, CARD)


def test_the_fullest_and_then_the_latest_measurement_counts(store: Path) -> None:
    measure(store, "a", "2026-01-03", mskd=1.0)
    measure(store, "b", "2026-01-02", mskd=2.0, ice=3.0)
    measure(store, "c", "2026-01-01", mskd=4.0, ice=5.0)
    *_, found = measurements(store, MARKET, CARD)
    assert {name: one.cost for name, one in found.methods.items()} == {"mskd": 2.0, "ice": 3.0}


@pytest.mark.parametrize("result", [{}, [], {"methods": 3}])
def test_a_file_of_something_else_is_named_and_left_out(
    store: Path, result: object, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, "broken", result)
    assert not measurements(store, MARKET, CARD)
    assert "methods-broken.json is not a result of harness bench" in capsys.readouterr().err


def test_costs_are_of_runs_like_those_that_were_timed(store: Path) -> None:
    result = measure(store, "epyc", cluster_contrast=1.0, mskd=2.4)
    put(store, "epyc", result | {"setting": result["setting"] | {"train": 12936, "query": 3368}})
    assert measurements(store, MARKET | {"train": 12936, "query": 3368}, CARD)
    assert not measurements(store, MARKET | {"train": 500, "query": 3368}, CARD)


@pytest.mark.parametrize(
    ("name", "key", "timed", "other"),
    [("compile", "train.compile", "off", "default"), ("test_every", "evaluation.every", 5, 1)],
)
def test_runs_that_are_compiled_or_tested_more_often_have_no_cost(
    store: Path, name: str, key: str, timed: object, other: object
) -> None:
    result = measure(store, "epyc", cluster_contrast=1.0, mskd=2.4)
    put(store, "epyc", result | {"setting": result["setting"] | {name: timed}})
    section, _, option = key.partition(".")
    for run, value in (("a", timed), ("b", other)):
        (store / run / "config.json").write_text(json.dumps({section: {option: value}}))
    costs = {name: cost for name, (cost,) in shown(store, "Cost × cluster_contrast").items()}
    assert costs["mskd"] == "2.40" and costs["cluster_contrast"] == "–"


def test_a_measurement_that_fits_no_run_is_not_named(store: Path) -> None:
    result = measure(store, "epyc", cluster_contrast=1.0, mskd=2.4)
    put(store, "epyc", result | {"setting": result["setting"] | {"compile": "default"}})
    for run in "abc":
        (store / run / "config.json").write_text(json.dumps({"train": {"compile": "off"}}))
    (found,) = comparisons(store)
    assert found.costs is None
    assert "bench methods" not in FORMATS["markdown"]([leaderboard(found)])


def test_hours_by_phase_are_of_the_runs_that_have_hours(store: Path) -> None:
    result = measure(store, "epyc", cluster_contrast=1.0, mskd=2.4)
    put(store, "epyc", result | {"setting": result["setting"] | {"compile": "off"}})
    for run, compiled in (("a", "off"), ("b", "default")):
        (store / run / "config.json").write_text(json.dumps({"train": {"compile": compiled}}))
    (found,) = comparisons(store)
    assert found.costs is not None
    timed = found.costs.phases(found.rows.assign(row=found.rows["method"]))
    assert set(timed["row"]) == {"mskd"}


def test_an_earlier_stage_has_the_cost_of_its_own_rounds(store: Path) -> None:
    result = measure(store, "epyc", cluster_contrast=1.0, mskd=2.4)
    result["methods"]["mskd"]["stages"]["teacher"]["cost"] = 1.07
    result["methods"]["mskd"]["cost_error"] = 0.051
    put(store, "epyc", result)
    found = shown(store, "Cost × cluster_contrast")
    assert found["mskd (teacher)"] == ["1.07"] and found["mskd"] == ["2.40"]
    (only,) = comparisons(store)
    assert only.costs is not None and "costs within ± 5% (95% intervals)" in only.costs.note


def test_of_methods_tested_at_different_times_each_counts(store: Path) -> None:
    result = measure(store, "epyc", cluster_contrast=1.0, mskd=2.4)
    for method, every in (("cluster_contrast", 10), ("mskd", 1)):
        for stage in result["methods"][method]["stages"].values():
            stage["test_every"] = every
    put(store, "epyc", result)
    for run in ("a", "b"):
        (store / run / "config.json").write_text(json.dumps({"evaluation": {"every": 10}}))
    costs = {name: cost for name, (cost,) in shown(store, "Cost × cluster_contrast").items()}
    assert costs["mskd"] == "–" and costs["cluster_contrast"] == "1.00"


def test_the_measurement_that_fits_most_rows_counts(store: Path) -> None:
    compiled = measure(store, "compiled", "2026-01-02", cluster_contrast=1.0, mskd=3.0)
    put(store, "compiled", compiled | {"setting": compiled["setting"] | {"compile": "default"}})
    plain = measure(store, "plain", "2026-01-01", cluster_contrast=1.0, mskd=2.4)
    put(store, "plain", plain | {"setting": plain["setting"] | {"compile": "off"}})
    for run in ("a", "b"):
        (store / run / "config.json").write_text(json.dumps({"train": {"compile": "off"}}))
    assert shown(store, "Cost × cluster_contrast")["mskd"] == ["2.40"]
