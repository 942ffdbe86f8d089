"""Records of every schema that ever was are read, as this version has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.results.schema import SCHEMA, STEPS, read
from harness.results.store import Run, load
from tests.results.records import record, write

FROZEN = sorted((Path(__file__).parent / "frozen").glob("*.json"))


def raw(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_there_is_a_frozen_record_and_a_step_of_every_schema() -> None:
    assert {raw(path)["schema"] for path in FROZEN} >= set(STEPS) == set(range(1, SCHEMA))


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: path.stem)
def test_old_records_are_brought_up_to_date_and_lose_nothing(path: Path, tmp_path: Path) -> None:
    folder = write(tmp_path, "old", before := path.read_text(encoding="utf-8"))
    old, run = raw(path), Run(folder)
    assert run.finished, run.problem
    now = run.record
    assert now["schema"] == SCHEMA and now["evaluated"] is True
    assert {"not_as_published", "unreadable"} <= now["dataset"].keys()
    for name, stage in now["stages"].items():
        assert {"network", "images_per_second"} <= stage.keys()
        assert old["stages"][name].items() <= stage.items()
    for key in ("experiment", "settings", "protocol", "metrics", "seconds", "finished"):
        assert now[key] == old[key]
    assert len(load(tmp_path)) == len(old["stages"])
    assert (folder / "record.json").read_text(encoding="utf-8") == before, "files stay as they are"


def test_the_first_records_lacked_what_is_filled_in() -> None:
    first = raw(next(path for path in FROZEN if path.stem == "schema1-first"))
    assert "evaluated" not in first and "not_as_published" not in first["dataset"]
    assert all("network" not in stage for stage in first["stages"].values())
    now = read(first)
    assert isinstance(now, dict)
    assert [stage["network"] for stage in now["stages"].values()] == ["student", "student"]
    assert now["dataset"]["not_as_published"] is None


@pytest.mark.parametrize(
    ("schema", "said"),
    [(SCHEMA + 1, "a newer harness wrote"), (0, "another schema"), (None, "another schema"),
     ("2", "another schema"), (True, "another schema")],
)  # fmt: skip
def test_other_schemas_are_damage(schema: object, said: str) -> None:
    found = read(record() | {"schema": schema})
    assert isinstance(found, str) and said in found


@pytest.mark.parametrize("damage", [3, [], None, {"teacher": 3}, {}])
@pytest.mark.parametrize("key", ["stages", "dataset", "environment", "experiment", "protocol"])
def test_migration_survives_any_damage(key: str, damage: object) -> None:
    found = read(record() | {key: damage})
    if isinstance(found, dict):
        assert key in ("dataset", "environment") and isinstance(damage, dict)
    else:
        assert f"lacks {key}" in found
