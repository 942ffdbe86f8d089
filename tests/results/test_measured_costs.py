"""Costs in tables are those that `harness bench methods` measured under the same protocol."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.results.comparisons import comparisons
from harness.results.formats import FORMATS
from harness.results.measured_costs import cost_key, measured_costs
from harness.results.report.page import render
from harness.results.table_model import leaderboard
from tests.results.records import CARD, card, record, write


def measure(store: Path, name: str, date: str = "2026-01-01", **costs: float) -> dict[str, Any]:
    """A result of `harness bench methods`, beside the store."""
    result = {
        "setting": {"reference": "cluster_contrast", "dataset": "market1501"},
        "machine": {"device": "CPU", "cpu": "EPYC, 2 cores", "date": date},
        "load": {"others": 0.02}, "disturbed": [],
        "methods": {
            method: {"name": method, "card": cost_key(CARD), "cost": cost}
            for method, cost in costs.items()
        },
    }  # fmt: skip
    put(store, name, result)
    return result


def put(store: Path, name: str, result: object) -> None:
    path = store.parent / "bench" / f"methods-{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    write(folder, "a", record("mskd"))
    write(folder, "b", record("cluster_contrast", train=50.0))
    write(folder, "c", record("ice", train=40.0))
    return folder


def test_cost_stands_beside_accuracy(store: Path) -> None:
    (before,) = comparisons(store)
    assert "Cost" not in FORMATS["markdown"]([leaderboard(before)])
    measure(store, "epyc", mskd=2.4, cluster_contrast=1.0)
    (found,) = comparisons(store)
    table = leaderboard(found)
    place = [column.title for column in table.columns].index("Cost × cluster_contrast")
    shown = {row[0].text: row[place].text for row in table.rows}
    assert shown == {"mskd": "2.40", "mskd (teacher)": "–", "cluster_contrast": "1.00", "ice": "–"}
    (note,) = (note for note in table.notes if note.startswith("Cost"))
    assert "EPYC, 2 cores, 2026-01-01; other work took 2% of the CPU" in note
    assert "Cost × cluster_contrast" in render(store) and "other work took 2%" in render(store)


def test_variants_have_no_cost(store: Path) -> None:
    measure(store, "epyc", cluster_contrast=1.0)
    write(store, "d", record("cluster_contrast", settings="22222222", train=51.0))
    (found,) = comparisons(store)
    table = leaderboard(found)
    place = [column.title for column in table.columns].index("Cost × cluster_contrast")
    assert {row[place].text for row in table.rows} == {"–"}


def test_another_protocol_data_set_or_a_disturbed_measurement_is_none(store: Path) -> None:
    result = measure(store, "epyc", mskd=2.4)
    assert measured_costs(store, "market1501", CARD) is not None
    assert measured_costs(store, "market1501", card(input="128x64")) is None
    assert measured_costs(store, "msmt17", CARD) is None
    assert measured_costs(store, "market1501", card(weights="others", cameras=False)) is not None
    put(store, "epyc", result | {"disturbed": ["other work"]})
    assert measured_costs(store, "market1501", CARD) is None


def test_the_fullest_and_then_the_latest_measurement_counts(store: Path) -> None:
    measure(store, "a", "2026-01-03", mskd=1.0)
    measure(store, "b", "2026-01-02", mskd=2.0, ice=3.0)
    measure(store, "c", "2026-01-01", mskd=4.0, ice=5.0)
    found = measured_costs(store, "market1501", CARD)
    assert found is not None and found.costs == {"mskd": 2.0, "ice": 3.0}


@pytest.mark.parametrize("result", [{}, [], {"methods": 3}])
def test_a_file_of_something_else_is_named_and_left_out(
    store: Path, result: object, capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, "broken", result)
    assert measured_costs(store, "market1501", CARD) is None
    assert "methods-broken.json is no result of harness bench" in capsys.readouterr().err
