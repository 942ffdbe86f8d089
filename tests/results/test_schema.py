"""The schema of records: other schemas and damaged sections are named."""

from __future__ import annotations

import math

import pytest

from harness.results.schema import (
    SCHEMA,
    checkpoint_problem,
    config_problem,
    history_problem,
    is_evaluation,
    read,
)
from tests.results.records import card, record


def test_a_whole_record_is_returned_as_it_is() -> None:
    whole = record() | {"more": {"than": "declared"}}
    assert read(whole) is whole


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, None, str(SCHEMA), True])
def test_other_schemas_are_named(schema: object) -> None:
    assert read(record() | {"schema": schema}) == (
        f"record.json has schema {schema!r}, and this version reads {SCHEMA}"
    )


@pytest.mark.parametrize("damage", [3, [], None, {"teacher": 3}, {}])
@pytest.mark.parametrize("key", ["stages", "dataset", "environment", "experiment", "protocol"])
def test_damaged_sections_are_named(key: str, damage: object) -> None:
    found = read(record() | {key: damage})
    if isinstance(found, dict):
        assert key in ("dataset", "environment") and isinstance(damage, dict)
    else:
        assert f"no valid {key}" in found or f"lacks {key}" in found


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "70", None, True])
@pytest.mark.parametrize("place", ["metrics", "stages.student.metrics"])
def test_metrics_are_finite_numbers(place: str, value: object) -> None:
    damaged = record()
    node = damaged
    for key in place.split("."):
        node = node[key]
    node["rank5"] = value
    assert f"no valid {place}.rank5" in str(read(damaged))


def test_numbers_on_the_card_are_finite() -> None:
    assert "no valid protocol.samples_per_bn" in str(
        read(record() | {"protocol": card() | {"samples_per_bn": math.nan}})
    )


def test_data_without_a_test_part_have_no_metrics() -> None:
    trained = record() | {"metrics": {}, "evaluated": False}
    trained["stages"] = {"train": {"metrics": {}, "epoch": 3}}
    assert isinstance(read(trained), dict)
    assert "lacks stages.train.metrics.mAP" in str(read(trained | {"evaluated": True}))


@pytest.mark.parametrize("name", ["../../x", "a/b", "checkpoint", ""])
def test_names_of_stages_lead_nowhere(name: str) -> None:
    whole = record()
    whole["stages"] = {name: whole["stages"]["student"]}
    assert "no valid stages" in str(read(whole))


CONFIG = {
    "seed": 0, "method": {"name": "mskd", "uses_cameras": True}, "evaluation": {}, "stages": {},
    "images": {"height": 8, "width": 4}, "dataset": {"name": "synthetic"}, "backbone": {},
    "train": {"precision": "fp32"},
}  # fmt: skip


@pytest.mark.parametrize("key", CONFIG)
def test_a_configuration_without_a_section(key: str) -> None:
    assert config_problem(CONFIG) is None
    rest = {name: section for name, section in CONFIG.items() if name != key}
    assert config_problem(rest) == f"config.json lacks {key}"
    assert f"no valid {key}" in str(config_problem(CONFIG | {key: [1]}))


def test_rows_of_a_history() -> None:
    row = {"stage": "train", "epoch": 0}
    assert history_problem([row]) is None
    assert history_problem([row, {"stage": "train"}]) == "it lacks 1.epoch"
    assert history_problem({}) and history_problem([3])


CHECKPOINT = {
    "settings": "1", "seed": 0, "data": "2", "history": "[]", "stages": {}, "trainer": None,
    "best": {}, "environment": {}, "processes": [1], "seconds": 1.0, "device_seconds": 1.0,
    "memory_mib": {},
}  # fmt: skip


@pytest.mark.parametrize("key", CHECKPOINT)
def test_something_that_is_no_checkpoint(key: str) -> None:
    assert checkpoint_problem(CHECKPOINT) is None
    assert checkpoint_problem([CHECKPOINT]) and checkpoint_problem(None)
    rest = {name: value for name, value in CHECKPOINT.items() if name != key}
    assert checkpoint_problem(rest) == f"it lacks {key}"
    assert f"no valid {key}" in str(checkpoint_problem(CHECKPOINT | {key: ()}))
    for value in (math.nan, {1, 2}):
        odd = CHECKPOINT | {"environment": {"device": [value]}}
        assert "what a record cannot" in str(checkpoint_problem(odd))


def test_results_of_other_data() -> None:
    whole = {
        "schema": SCHEMA, "stage": "train", "protocol": card(), "metrics": {"mAP": 3.0},
        "dataset": {"name": "b", "fingerprint": "1"},
    }  # fmt: skip
    assert is_evaluation(whole)
    for key in whole:
        assert not is_evaluation({name: value for name, value in whole.items() if name != key})
        assert not is_evaluation(whole | {key: [3]})
