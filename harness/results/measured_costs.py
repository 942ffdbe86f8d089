"""What methods cost, as `harness bench methods` measured it.

Runs are made on different days and on machines with other work, so no table compares their speeds
as costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import say_once
from harness.core.files import read_json
from harness.core.hashing import card_hash

#: the folder of measurements, beside that of the records
FOLDER = "bench"


@dataclass(frozen=True)
class MeasuredCosts:
    """Name of a method → the hours of its schedule over those of the reference.

    note: the machine, the day, and the load during the measurement.
    """

    reference: str
    costs: Mapping[str, float]
    note: str


def cost_key(card: Mapping[str, Any]) -> str:
    """8 hex digits of a protocol card without its weights, which do not change a cost."""
    return card_hash({key: value for key, value in card.items() if key != "weights"})


def measured_costs(store: Path, dataset: str, card: Mapping[str, Any]) -> MeasuredCosts | None:
    """The costs of methods on a data set under a protocol, of the measurement with most of them.

    store: `bench/methods-*.json` beside it are read.

    A damaged file is left out, with a notice.
    """
    key, found = cost_key(card), list[tuple[tuple[int, str], MeasuredCosts]]()
    for path in sorted((store.parent / FOLDER).glob("methods-*.json")):
        try:
            result = read_json(path)
            setting, machine, load = (result[part] for part in ("setting", "machine", "load"))
            costs = {
                str(one["name"]): float(one["cost"])
                for one in result["methods"].values()
                if one["card"] == key
            }
            if not costs or setting["dataset"] != dataset or result["disturbed"]:
                continue
            device = machine["cpu"] if machine["device"] == "CPU" else machine["device"]
            others = load["others"]
            shared = "" if others is None else f"; other work took {others:.0%} of the CPU"
            note = (
                f"Cost: hours of the schedule over those of {setting['reference']}, timed by "
                f"harness bench methods on {device}, {machine['date']}{shared}."
            )
        except (OSError, KeyError, TypeError, AttributeError, ValueError):
            say_once(f"{path} is no result of harness bench methods, and is left out.")
            continue
        order = len(costs), str(machine["date"])
        found.append((order, MeasuredCosts(str(setting["reference"]), costs, note)))
    return max(found, key=lambda one: one[0])[1] if found else None
