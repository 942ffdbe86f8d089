"""What charts show of a table's rows: values over epochs, their spread over seeds, and costs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from harness.core.errors import HarnessError
from harness.results.comparisons import Comparison
from harness.results.store import Run

#: phases of an epoch in the order in which they happen; others come after them
PHASES = ("extract", "label", "train", "test")


@dataclass(frozen=True)
class Series:
    """One row over epochs.

    place: of the row in its table. epochs: (E,). mean, low, high: (E,) over the seeds that have a
    value there.
    """

    place: int
    label: str
    epochs: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def spreads(self) -> bool:
        """Whether seeds differ."""
        return any(high > low for low, high in zip(self.low, self.high, strict=True))


@dataclass
class Rows:
    """The runs behind a table's rows, each file read once.

    find: name of a run → the run. damaged: run → what is wrong with its history, filled on the way.
    """

    comparison: Comparison
    find: Callable[[str], Run]
    damaged: dict[str, str] = field(default_factory=dict)

    @cached_property
    def rows(self) -> list[Mapping[Any, Any]]:
        return list(self.comparison.rows.to_dict("records"))

    @cached_property
    def _histories(self) -> list[list[list[dict[str, Any]]]]:
        """Row → run → the epochs of the row's stage."""
        return [
            [self._epochs(str(name), str(row["stage"])) for name in row["runs"]]
            for row in self.rows
        ]

    def _epochs(self, name: str, stage: str) -> list[dict[str, Any]]:
        run = self.find(name)
        try:
            history = run.history()
            return [row for row in history if row["stage"] == stage and is_number(row["epoch"])]
        except HarnessError as error:
            self.damaged[name] = error.cause.removeprefix(f"{run.folder}: ")
        except (KeyError, TypeError):
            self.damaged[name] = "history.json is no list of epochs"
        return []

    def over_epochs(self, key: str) -> list[Series]:
        """A value of the history, for each row that has it."""
        found = []
        for place, (row, runs) in enumerate(zip(self.rows, self._histories, strict=True)):
            values: dict[int, list[float]] = defaultdict(list)
            for epochs in runs:
                for epoch in epochs:
                    if is_number(epoch.get(key)):
                        values[int(epoch["epoch"])].append(float(epoch[key]))
            if values:
                at = sorted(values)
                mean = tuple(sum(values[e]) / len(values[e]) for e in at)
                low, high = (tuple(f(values[e]) for e in at) for f in (min, max))
                found.append(Series(place, str(row["method"]), tuple(at), mean, low, high))
        return found

    def untrained(self) -> list[tuple[str, float]]:
        """(label, mAP) of rows that have no epochs."""
        pairs = zip(self.rows, self._histories, strict=True)
        return [(str(row["method"]), float(row["mAP"])) for row, runs in pairs if not any(runs)]

    def identities(self) -> int | None:
        """How many people there really are among the training images, if all runs agree."""
        found = {
            int(runs[0][0]["identities"])
            for row in self._histories
            for runs in [[epochs for epochs in row if epochs]]
            if runs and is_number(runs[0][0].get("identities"))
        }
        return found.pop() if len(found) == 1 else None

    def seeds(self, metric: str = "mAP") -> list[list[tuple[str, float]]]:
        """Row → (seed, value) of each of its runs."""
        return [
            [
                (
                    str(record["experiment"]["seed"]),
                    float(record["stages"][row["stage"]]["metrics"][metric]),
                )
                for record in (self.find(str(name)).record for name in row["runs"])
            ]
            for row in self.rows
        ]

    def seconds(self) -> list[dict[str, float]]:
        """Row → phase → mean seconds over its runs; {} where no run measured any."""
        found = []
        for row in self.rows:
            timed = []
            for name in row["runs"]:
                stage = self.find(str(name)).record["stages"][row["stage"]]
                seconds = stage.get("seconds")
                if isinstance(seconds, dict) and seconds:
                    timed.append({str(k): float(v) for k, v in seconds.items() if is_number(v)})
            keys = {phase for times in timed for phase in times}
            order = [*(p for p in PHASES if p in keys), *sorted(keys - set(PHASES))]
            found.append({p: sum(t.get(p, 0.0) for t in timed) / len(timed) for p in order})
        return found


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def thinned(count: int, most: int) -> Sequence[int]:
    """At most `most` places of `count`, evenly spread, the first and the last among them."""
    if count <= most:
        return range(count)
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})
