"""The schema of records: other schemas and damaged sections are named."""

from __future__ import annotations

import math

import pytest

from harness.results.schema import SCHEMA, read
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
