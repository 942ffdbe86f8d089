"""Records made by hand, small enough to check by eye."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.core.hashing import card_hash
from harness.results.measured_costs import cost_key

CARD: dict[str, Any] = {
    "name": "common", "input": "256x128", "cameras": True, "selection": "last",
}  # fmt: skip
CARD["hash"] = card_hash(CARD)


def card(**changes: Any) -> dict[str, Any]:
    """A protocol card with its hash. A `hash` among the changes makes another protocol of the same
    name: the card differs, and so does its real hash.
    """
    changed = CARD | changes
    if "hash" in changes:
        changed["augmentation"] = changed.pop("hash")
    return changed | {"hash": card_hash(changed)}


_card = card


def metrics(mAP: float) -> dict[str, float]:
    """Metrics that differ by their distance from mAP."""
    return {"mAP": mAP, "rank1": mAP + 20, "rank5": mAP + 30, "rank10": mAP + 35, "mINP": mAP / 2}


def record(
    method: str = "mskd",
    seed: int = 0,
    dataset: str = "market1501",
    settings: str = "11111111",
    card: dict[str, Any] | None = None,
    **stages: float,
) -> dict[str, Any]:
    """The record of a finished run; `stages` are name=mAP, in order."""
    stages = stages or {"teacher": 60.0, "student": 70.0}
    return {
        "schema": 1,
        "experiment": {"method": method, "dataset": dataset, "protocol": "common", "seed": seed},
        "settings": settings,
        "protocol": _card(**(card or {})),
        "metrics": metrics(list(stages.values())[-1]),
        "stages": {
            name: {"metrics": metrics(mAP), "epoch": 49, "images_per_second": 100.0 + seed}
            for name, mAP in stages.items()
        },
        "dataset": {"name": dataset, "fingerprint": "", "not_as_published": None},
        "seconds": 12.5,
        "environment": {"device": "CPU"},
    }


def write(store: Path, name: str, content: dict[str, Any] | str | None) -> Path:
    """A run's folder: its record as JSON or as text, or none."""
    folder = store / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    if content is not None:
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "record.json").write_text(text)
    return folder


def _stage(hours: float, speed: float | None) -> dict[str, Any]:
    phases = {"extract": hours / 4, "label": 0.0, "train": hours / 2, "test": hours / 4}
    return {"hours": hours, "cost": hours / 5, "hours_by_phase": phases, "images_per_second": speed}


def measure(store: Path, name: str, date: str = "2026-01-01", **costs: float) -> dict[str, Any]:
    """A result of `harness bench methods`, beside the store; MSKD's teacher takes 40 %."""
    stages = {"mskd": {"teacher": 0.4, "student": 0.6}, "direct_transfer": {"initial": 1.0}}
    result = {
        "setting": {"reference": "cluster_contrast", "dataset": "market1501"},
        "machine": {"device": "CPU", "cpu": "EPYC, 2 cores", "date": date},
        "load": {"others": 0.02, "highest": 0.09}, "disturbed": [],
        "methods": {
            method: {
                "name": method, "card": cost_key(CARD), "cost": cost, "hours": 5 * cost,
                "stages": {
                    one: _stage(5 * cost * share, None if one == "initial" else 30.0 * share)
                    for one, share in stages.get(method, {"train": 1.0}).items()
                },
            }
            for method, cost in costs.items()
        },
    }  # fmt: skip
    put(store, name, result)
    return result


def put(store: Path, name: str, result: object) -> None:
    path = store.parent / "bench" / f"methods-{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result))
