"""Cost: hardware is named, and times and speeds can be."""

from __future__ import annotations

from collections.abc import Iterator

from harness.experiment.submissions.context import Context, ReadRun
from harness.experiment.submissions.untrusted import quoted
from harness.experiment.submissions.verdict import Found, failed_or, ok
from harness.results.schema import is_number

#: images per second and device that no hardware reaches with a network of this field: a forward
#: pass of ResNet-50 at 256 × 128 takes 2.7 × 10⁹ multiplications, so that 10⁶ images take more than
#: twice the peak of the fastest accelerator of 2025
FASTEST = 1_000_000
#: share by which sums of rounded times may differ, and hours by which device hours are rounded
SLACK, ROUNDING = 0.05, 2e-5
MOST_DEVICES = 4096


def check_cost(run: ReadRun, context: Context) -> Found:
    """Check device, seconds, device hours and speeds."""
    record, device = run.record, run.record["environment"].get("device")
    problems = list(_times(run))
    if not (isinstance(device, str) and device.strip()):
        problems.append("no device is named")
    elif device == "CPU" and not record["environment"].get("cpu"):
        problems.append("no processor is named")
    problems += _speeds(run)
    hours = record["seconds"] / 3600
    return failed_or(problems, ok(f"{quoted(device, 40)}, {hours:.2f} h"))


def _times(run: ReadRun) -> Iterator[str]:
    record = run.record
    seconds, devices = record["seconds"], record.get("devices", 1)
    if seconds <= 0:
        yield f"it took {seconds} s"
        return
    if not 1 <= devices <= MOST_DEVICES:
        yield f"{devices} devices"
        return
    total = sum(row["seconds"] for row in run.history if is_number(row.get("seconds")))
    if any(row.get("seconds", 0) < 0 for row in run.history if is_number(row.get("seconds", 0))):
        yield "an epoch took less than no time"
    if total > seconds * (1 + SLACK):
        yield f"its epochs took {total:,.0f} s, the whole run {seconds:,.0f} s"
    hours = record.get("device_hours")
    if hours is not None:
        counts = [n for n in record.get("processes") or [] if isinstance(n, int) and n > 0]
        counts = [*counts, devices]  # a resumed run may have had others
        low, high = (n * seconds / 3600 for n in (min(counts), max(counts)))
        if not low * (1 - SLACK) - ROUNDING <= hours <= high * (1 + SLACK) + ROUNDING:
            yield f"{hours} device hours, but {devices} devices took {seconds:,.0f} s"


def _speeds(run: ReadRun) -> Iterator[str]:
    fastest = FASTEST * max(1, run.record.get("devices", 1))
    for name, stage in [*run.record["stages"].items(), *((r["stage"], r) for r in run.history)]:
        for key in ("images_per_second", "extract_images_per_second"):
            speed = stage.get(key)
            if speed is not None and not (is_number(speed) and 0 < speed <= fastest):
                yield f"{quoted(name)}: {key} {quoted(speed)} is not between 0 and {fastest:,}"
                return
