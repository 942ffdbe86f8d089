"""Accuracy against throughput: which rows are accurate, which are fast."""

from __future__ import annotations

import math

from markupsafe import Markup

from harness.results.report.chart import BOTTOM, COLOURED, LABEL, LEFT, TOP, Chart, group, value
from harness.results.report.series import Rows
from harness.results.report.svg import (
    LETTER,
    WIDTH,
    clipped,
    element,
    linear,
    logarithmic,
    mark,
    picture,
    polyline,
    x_axis,
    y_axis,
)

Box = tuple[float, float, float, float]  # left, top, right, bottom
#: where a label may stand beside its point: how far, and which of its ends is there
SIDES = ((8, 0, "start"), (-8, 0, "end"), (0, -12, "middle"), (0, 12, "middle"),
         (7, -9, "start"), (7, 9, "start"), (-7, -9, "end"), (-7, 9, "end"))  # fmt: skip
WIDE = 4.0  # times the lowest value: the axis is logarithmic


def throughput(key: str, board: str, rows: Rows) -> Chart | None:
    """mAP by images a second; None where fewer than two rows were trained."""
    trained = [place for place, row in enumerate(rows.rows) if row["images_per_second"] > 0]
    if len(trained) < 2:
        return None
    points = {
        p: (float(rows.rows[p]["images_per_second"]), float(rows.rows[p]["mAP"])) for p in trained
    }
    spreads = {p: float(rows.rows[p]["mAP_std"]) for p in trained}
    spreads = {p: std for p, std in spreads.items() if math.isfinite(std)}
    speeds = [speed for speed, _ in points.values()]
    x = linear(speeds, LEFT, WIDTH - 12)
    if log := max(speeds) > WIDE * min(speeds):
        x = logarithmic(speeds, LEFT, WIDTH - 12)
    reach = [points[p][1] + spreads.get(p, 0.0) for p in trained]
    y = linear([min(v, 100.0) for v in reach], BOTTOM, TOP)
    parts = [x_axis(x, BOTTOM, TOP, "images/s in training"), y_axis(y, LEFT, WIDTH - 12)]
    taken = [(x(s) - 5, y(m) - 5, x(s) + 5, y(m) + 5) for s, m in points.values()]
    for place, (speed, mAP) in points.items():
        inner, std = [], spreads.get(place, 0.0)
        if std:
            ends = [(x(speed), y(max(y.low, mAP - std))), (x(speed), y(min(y.high, mAP + std)))]
            inner.append(element("path", d=polyline(ends), klass="thin"))
        inner.append(mark(place, x(speed), y(mAP), 4.0))
        if place < COLOURED:
            inner.append(_beside(str(rows.rows[place]["method"]), x(speed), y(mAP), taken))
        parts.append(group(board, place, *inner))
    title = "Accuracy against throughput: mAP, %"
    body = tuple(
        (str(rows.rows[p]["method"]), value(s), f"{m:.1f}", str(rows.rows[p]["device"]))
        for p, (s, m) in points.items()
    )
    described = ", ".join(f"{name} {mAP} at {speed}/s" for name, speed, mAP, _ in body)
    shown = picture(key, title, f"{described}.", *parts)
    notes = _notes(rows, trained, bool(spreads), log)
    return Chart(title, shown, ("Row", "Images/s", "mAP", "Device"), body, notes)


def _notes(rows: Rows, trained: list[int], spreads: bool, log: bool) -> str:
    notes = ["Bars: ± one standard deviation over seeds."] if spreads else []
    notes += ["Logarithmic to the right."] if log else []
    if len({str(rows.rows[p]["device"]) for p in trained}) > 1:
        notes.append("Measured on several machines: throughputs do not compare.")
    rest = [str(row["method"]) for p, row in enumerate(rows.rows) if p not in trained]
    notes += [f"Not trained: {', '.join(rest)}."] if rest else []
    return " ".join(notes)


def _beside(text: str, x: float, y: float, taken: list[Box]) -> Markup:
    """A label on the side where it covers least of what is there already."""
    text = clipped(text, LABEL)
    width = LETTER * len(text)
    tries = []
    for order, (dx, dy, anchor) in enumerate(SIDES):
        left = x + dx - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
        box = (left, y + dy - 5.5, left + width, y + dy + 5.5)
        outside = max(0.0, LEFT - left) + max(0.0, box[2] - WIDTH) + max(0.0, box[3] - BOTTOM)
        covered = sum(_overlap(box, other) for other in taken) + 50 * outside
        tries.append((covered, order, box, anchor))
    _, order, box, anchor = min(tries)
    taken.append(box)
    dx, dy, _ = SIDES[order]
    return element("text", text, x=x + dx, y=y + dy + 3.8, text_anchor=anchor, klass="label")


def _overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    across = min(a[2], b[2]) - max(a[0], b[0])
    return max(0.0, across) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
