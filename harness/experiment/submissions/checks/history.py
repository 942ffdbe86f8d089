"""History: all epochs in order, with losses, and the tests that the record reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from harness.core.metrics import METRICS
from harness.experiment.submissions.context import Context, ReadRun
from harness.experiment.submissions.untrusted import quoted
from harness.experiment.submissions.verdict import Found, failed_or, ok, unknown
from harness.results.schema import is_number

#: percentage points by which a metric in the history may differ from the record's
ROUNDING = 1e-6

Rows = Sequence[Mapping[str, Any]]


def check_history(run: ReadRun, context: Context) -> Found:
    """Compare history.json with config.json and the record."""
    if not run.trained:
        problems = ["an untrained run has epochs"] if run.history else []
        problems += ["config.json has stages, but none trained"] * bool(run.config["stages"])
        return failed_or(problems, ok("untrained"))
    problems = []
    by_stage = [(name, list(rows)) for name, rows in groupby(run.history, lambda r: r["stage"])]
    if [name for name, _ in by_stage] != list(run.record["stages"]):
        problems.append(f"stages {quoted([name for name, _ in by_stage])}")
    for name, rows in by_stage:
        if name in run.record["stages"]:
            problems += [f"{quoted(name)}: {text}" for text in _in_stage(run, name, rows)]
    if problems or not run.record.get("networks_of"):
        return failed_or(problems, ok(f"{len(run.history)} epochs"))
    return unknown(f"its networks are those of {quoted(run.record['networks_of'])}")


def _in_stage(run: ReadRun, name: str, rows: Rows) -> Iterator[str]:
    train = run.config["train"] | ((run.config["stages"].get(name) or {}).get("train") or {})
    first, count = -int(train["warmup_epochs"]), int(train["epochs"])
    epochs = [row["epoch"] for row in rows]
    if len(epochs) != count - first or epochs != list(range(first, count)):
        yield f"{len(epochs)} epochs, or out of order; config.json has {first} to {count - 1}"
        return
    for row in rows:
        if not is_number(row.get("loss")) or not math.isfinite(row["loss"]):
            yield f"epoch {row['epoch']} has no loss"
            break
    if run.record.get("networks_of"):
        return  # tested by another rule, after training
    recorded = run.record["stages"][name]
    tested = {row["epoch"]: row for row in rows if "mAP" in row}
    selection, last = run.config["selection"], max(tested, default=None)
    reported = recorded.get("epoch")
    if reported not in tested:
        yield f"epoch {quoted(reported)}, which the record reports, was not tested"
        return
    if selection == "last" and reported != last:
        yield f"the record reports epoch {reported}, not the last one, {last}"
    if selection == "last" and last != epochs[-1]:
        yield "the last epoch was not tested"
    best = max(row["mAP"] for row in tested.values())
    if selection == "oracle" and tested[reported]["mAP"] < best - ROUNDING:
        yield f"selection=oracle, but another epoch has mAP {best:.2f}"
    for key in METRICS:
        if key in recorded["metrics"] and key in tested[reported]:
            pair = recorded["metrics"][key], tested[reported][key]
            if not is_number(pair[1]) or abs(pair[0] - pair[1]) > ROUNDING:
                yield f"{key} of epoch {reported} is {quoted(pair[1])}, the record says {pair[0]}"
