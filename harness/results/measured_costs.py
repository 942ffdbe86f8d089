"""What methods cost, as `harness bench methods` measured it.

Runs are made on different days and on machines with other work, so tables and charts take speeds
and hours only from such measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ValidationError

from harness.core.errors import say_once
from harness.core.files import read_json
from harness.core.hashing import card_hash
from harness.results import settings

#: the folder of measurements, beside that of the records
FOLDER = "bench"


class StageCost(BaseModel):
    """A training stage, or an untrained network.

    hours: of its schedule. hours_by_phase: their parts. images_per_second: of training.
    """

    hours: float
    hours_by_phase: dict[str, float]
    images_per_second: float | None = None


class MethodCost(BaseModel):
    """A method. card: see `cost_key`. hours: of all stages. cost: hours over the reference's."""

    name: str
    card: str
    hours: float
    cost: float
    stages: dict[str, StageCost]


class _Setting(BaseModel):
    reference: str
    dataset: str


class _Machine(BaseModel):
    device: str
    cpu: str
    date: str


class _Load(BaseModel):
    others: float | None


class _Measurement(BaseModel):
    """The part of a result of `harness bench methods` that tables use."""

    setting: _Setting
    machine: _Machine
    load: _Load
    disturbed: list[str]
    methods: dict[str, MethodCost]


@dataclass(frozen=True)
class MeasuredCosts:
    """Costs by name of the method. note: the machine, the day, and the load meanwhile."""

    reference: str
    methods: Mapping[str, MethodCost]
    note: str

    def of_row(self, row: Mapping[Any, Any]) -> dict[str, float]:
        """What a row of a comparison cost; empty for variants of a method.

        Returns:
            hours, cost, and images_per_second if it was trained. The last stage's row has the hours
            of the whole method, that of an earlier stage its own.
        """
        method = self.methods.get(row["name"])
        label = row["name"] if row["final"] else f"{row['name']} ({row['stage']})"
        if method is None or row["method"] != label or row["stage"] not in method.stages:
            return {}
        stage = method.stages[row["stage"]]
        hours = method.hours if row["final"] else stage.hours
        found = {"hours": hours, "cost": method.cost * hours / method.hours}
        if stage.images_per_second is not None:
            found["images_per_second"] = stage.images_per_second
        return found

    def phases(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Hours by phase of all stages of the rows that are a method's last: row, phase, hours."""
        found = []
        for row in rows.to_dict("records"):
            if not (row["final"] and self.of_row(row)):
                continue
            for stage in self.methods[row["name"]].stages.values():
                for phase, hours in stage.hours_by_phase.items():
                    found.append({"row": row["row"], "phase": phase, "hours": hours})
        frame = pd.DataFrame(found, columns=["row", "phase", "hours"])
        return frame.groupby(["row", "phase"], sort=False, as_index=False).sum()


def hardware(device: str, cpu: str) -> str:
    """What a measurement was made on: the GPU, or the processor if there was none."""
    return cpu if device == "CPU" else device


def cost_key(card: Mapping[str, Any]) -> str:
    """8 hex digits of a protocol card without what does not change a cost.

    That is its weights, and which labeled source a method trains on.
    """
    held = {key: value for key, value in card.items() if key != "weights"}
    if "setting" in held:
        held["setting"] = settings.kind(held["setting"])
    return card_hash(held)


def measured_costs(store: Path, dataset: str, card: Mapping[str, Any]) -> MeasuredCosts | None:
    """The costs of methods on a data set under a protocol, of the measurement with most of them.

    store: `bench/methods-*.json` beside it are read.

    A damaged file is left out, with a notice.
    """
    key, found = cost_key(card), list[tuple[tuple[int, str], MeasuredCosts]]()
    for path in sorted((store.parent / FOLDER).glob("methods-*.json")):
        try:
            result = _Measurement.model_validate(read_json(path))
        except (OSError, ValidationError, ValueError):
            say_once(f"{path} is no result of harness bench methods, and is left out.")
            continue
        methods = {one.name: one for one in result.methods.values() if one.card == key}
        if not methods or result.setting.dataset != dataset or result.disturbed:
            continue
        machine, others, reference = result.machine, result.load.others, result.setting.reference
        shared = "" if others is None else f"; other work took {others:.0%} of the CPU"
        note = (
            f"Images/s (in training), hours (of the schedule) and cost (hours over those of "
            f"{reference}) were timed side by side by harness bench methods on "
            f"{hardware(machine.device, machine.cpu)}, {machine.date}{shared}."
        )
        order = len(methods), machine.date
        found.append((order, MeasuredCosts(reference, methods, note)))
    return max(found, key=lambda one: one[0])[1] if found else None
