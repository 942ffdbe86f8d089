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

    hours: of its schedule. cost: hours over those of the whole reference. hours_by_phase: parts of
    the hours. images_per_second: of training. compile, test_every: as in `_Setting`, where methods
    differ in them.
    """

    hours: float
    compile: str | None = None
    test_every: int | None = None
    cost: float
    hours_by_phase: dict[str, float]
    images_per_second: float | None = None


class MethodCost(BaseModel):
    """A method.

    card: see `cost_key`. hours: of all stages. cost: hours over the reference's. cost_error: half
    the width of its 95% interval, over the cost.
    """

    name: str
    card: str
    hours: float
    cost: float
    cost_error: float | None = None
    stages: dict[str, StageCost]


class _Setting(BaseModel):
    """train, query, gallery: numbers of images. test_every: epochs between tests."""

    reference: str
    dataset: str
    train: int | None = None
    query: int | None = None
    gallery: int | None = None
    compile: str | None = None
    test_every: int | None = None


class _Machine(BaseModel):
    device: str
    cpu: str
    date: str


class _Load(BaseModel):
    """highest: share of the CPU that other processes and other virtual machines took in the most
    disturbed round.
    """

    highest: float | None


class _Measurement(BaseModel):
    """The part of a result of `harness bench methods` that tables use."""

    setting: _Setting
    machine: _Machine
    load: _Load
    disturbed: list[str]
    methods: dict[str, MethodCost]


def _fits(timed: _Setting | StageCost, about: Mapping[str, Any]) -> bool:
    """Whether nothing that `about` tells of a run differs from what was timed."""
    known = timed.model_dump(exclude_none=True)
    return all(about[key] == value for key, value in known.items() if key in about)


@dataclass(frozen=True)
class MeasuredCosts:
    """Costs by name of the method. note: the machine, the day, the load meanwhile, and how certain
    costs are.
    """

    setting: _Setting
    methods: Mapping[str, MethodCost]
    note: str

    @property
    def reference(self) -> str:
        return self.setting.reference

    def of_run(self, row: Mapping[Any, Any], config: Mapping[str, Any]) -> dict[str, float]:
        """As `of_row`; empty for a run that is compiled or tested at other times than those timed.

        config: of the row's runs, as dotted keys.
        """
        keys = {"compile": "train.compile", "test_every": "evaluation.every"}
        about = {name: config[key] for name, key in keys.items() if key in config}
        method = self.methods.get(row["name"])
        timed = [self.setting, *(method.stages.values() if method else ())]
        return self.of_row(row) if all(_fits(one, about) for one in timed) else {}

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
        found = {"hours": hours, "cost": method.cost if row["final"] else stage.cost}
        if stage.images_per_second is not None:
            found["images_per_second"] = stage.images_per_second
        return found

    def phases(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Hours by phase of all stages of a method, for its last row: row, phase, hours.

        Rows without `hours`, which do not fit the measurement, are left out.
        """
        found = []
        for row in rows[rows["final"] & rows["hours"].notna()].to_dict("records"):
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


def measurements(
    store: Path, data: Mapping[str, Any], card: Mapping[str, Any]
) -> list[MeasuredCosts]:
    """The costs of methods on a data set under a protocol: measurements by their number of methods,
    then by date, ascending.

    A damaged file is left out, with a notice.

    Args:
        store: `bench/methods-*.json` beside it are read. data: the data set of a record: its name
            and its numbers of images.
    """
    key, found = cost_key(card), list[tuple[tuple[int, str], MeasuredCosts]]()
    for path in sorted((store.parent / FOLDER).glob("methods-*.json")):
        try:
            result = _Measurement.model_validate(read_json(path))
        except (OSError, ValidationError, ValueError):
            say_once(f"{path} is not a result of harness bench methods, and is left out.")
            continue
        methods = {one.name: one for one in result.methods.values() if one.card == key}
        setting, machine, highest = result.setting, result.machine, result.load.highest
        about = {**data, "dataset": data["name"]}
        if not methods or result.disturbed or not _fits(setting, about):
            continue
        errors = [one.cost_error for one in methods.values() if one.cost_error is not None]
        certain = f", costs within ± {max(errors):.0%} (95% intervals)" if errors else ""
        shared = "" if highest is None else f"; other work took at most {highest:.0%} of the CPU"
        note = (
            "Images/s (training, of a row's stage), hours (of the schedule) and cost (hours over "
            f"those of {setting.reference}) were timed side by side by harness bench methods on "
            f"{hardware(machine.device, machine.cpu)}, {machine.date}{certain}{shared}."
        )
        order = len(methods), machine.date
        found.append((order, MeasuredCosts(setting, methods, note)))
    return [costs for _, costs in sorted(found, key=lambda one: one[0])]
