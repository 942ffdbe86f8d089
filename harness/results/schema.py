"""What a record has to hold, and how older ones are brought up to that.

Files on disk are never rewritten: `read` migrates in memory, one step a schema. A new schema is a
number, a step in `STEPS`, and a frozen record of the one before under tests/results/frozen/.

1   the first.
2   says what the first left to the reader: `evaluated`, `dataset.not_as_published` and
    `unreadable`, each stage's `network` and `images_per_second`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from harness.core.hashing import card_hash

SCHEMA = 2
METRICS = ("mAP", "rank1", "rank5", "rank10", "mINP")
#: section of a record → what tables need of it, and of which kind
NEEDED: dict[str, dict[str, type]] = {
    "experiment": {"method": str, "dataset": str, "seed": int},
    "protocol": {"name": str, "hash": str, "cameras": bool, "selection": str},
    "dataset": {},
    "environment": {},
    "metrics": dict.fromkeys(METRICS, float),
}


def read(raw: Any) -> dict[str, Any] | str:
    """A record as this version has it, or what is wrong with it, in words.

    Args:
        raw: what stands in record.json; it is changed.
    """
    if not isinstance(raw, dict) or type(schema := raw.get("schema")) is not int:
        return "record.json is of another schema"
    if schema > SCHEMA:
        return f"record.json is of schema {schema}, which a newer harness wrote"
    if schema not in (*STEPS, SCHEMA):
        return f"record.json is of another schema ({schema})"
    record = raw
    while (schema := record["schema"]) < SCHEMA:
        STEPS[schema](record)
        record["schema"] = schema + 1
    if missing := list(_missing(record)):
        return f"record.json lacks {', '.join(missing)}"
    card = record["protocol"]
    if (own := card_hash(card)) != card["hash"]:
        return f"record.json has protocol hash {card['hash']}, but its card gives {own}"
    return record


def _from_1(record: dict[str, Any]) -> None:
    record.setdefault("evaluated", True)
    record.setdefault("environment", {})
    data = record.setdefault("dataset", {})
    if isinstance(data, dict):
        data.setdefault("not_as_published", None)
        data.setdefault("unreadable", [])
    stages = record.get("stages")
    for name, stage in stages.items() if isinstance(stages, dict) else ():
        if isinstance(stage, dict):
            stage.setdefault("network", "untrained" if name == "initial" else "student")
            stage.setdefault("images_per_second", None)


#: schema → what makes a record of it one of the next, in place; it may meet any damage
STEPS: dict[int, Callable[[dict[str, Any]], None]] = {1: _from_1}


def _missing(record: dict[str, Any]) -> Iterator[str]:
    """What tables need of a record and it does not have, or not of that kind. Of data without a
    test part there are no metrics.
    """
    needed = NEEDED if record.get("evaluated", True) else NEEDED | {"metrics": {}}
    for section, keys in needed.items():
        inner = record.get(section)
        if not isinstance(inner, dict):
            yield section
            continue
        for key, kind in keys.items():
            if not _is(kind, inner.get(key)):
                yield f"{section}.{key}"
    if not isinstance(record.get("settings"), str):
        yield "settings"
    stages = record.get("stages")
    if not isinstance(stages, dict) or not stages:
        yield "stages"
        return
    for name, stage in stages.items():
        metrics = stage.get("metrics") if isinstance(stage, dict) else None
        if not isinstance(metrics, dict):
            yield f"stages.{name}.metrics"
            continue
        for key, kind in needed["metrics"].items():
            if not _is(kind, metrics.get(key)):
                yield f"stages.{name}.metrics.{key}"


def _is(kind: type, value: object) -> bool:
    if kind is float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return math.isfinite(value)
    return type(value) is kind
