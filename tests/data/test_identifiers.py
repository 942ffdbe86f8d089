"""Identities and cameras as people write them."""

from __future__ import annotations

import pytest

from harness.data.identifiers import (
    is_missing,
    number_cameras,
    number_identities,
    whole_number,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7), ("0007", 7), ("-1", -1), (" 7 ", 7), ("-1.0", -1), ("0.0", 0), ("7.", 7),
        ("9007199254740993", 9007199254740993), ("1.5", None), ("1e3", None), ("12e3", None),
        ("", None), ("nan", None), ("inf", None), ("1_000", None), ("1" * 19, None), ("--1", None),
    ],
)  # fmt: skip
def test_whole_numbers(text: str, number: int | None) -> None:
    assert whole_number(text) == number


def test_missing() -> None:
    assert all(map(is_missing, ("", "  ", "nan", "NaN")))
    assert not any(map(is_missing, ("Nan", "0", "none", "-")))


def test_identities() -> None:
    assert number_identities(["3.0", "3", "", "-1.0", "0.0"]).tolist() == [3, 3, -1, -1, 0]
    assert number_identities(["zoë", "ann", "-1.0", "0", "", "7.0", "7"]).tolist() == [
        3, 2, -1, 0, -1, 1, 1,
    ]  # fmt: skip
    assert number_identities(["1e3", "10e2"]).tolist() == [2, 1], "not one person"
    assert number_identities([]).tolist() == []


def test_cameras() -> None:
    assert number_cameras(["10.0", "2", "2.0"]).tolist() == [1, 0, 0]
    assert number_cameras(["south", "2.0", "2", "north"]).tolist() == [2, 0, 0, 1]
