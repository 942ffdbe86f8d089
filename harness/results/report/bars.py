"""Charts with a line a row: the seeds of each, and where its time goes."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from harness.results.report.chart import (
    BOTTOM,
    COLOURED,
    LABEL,
    TOP,
    Chart,
    group,
    label,
    left_out,
    value,
)
from harness.results.report.series import Rows
from harness.results.report.svg import (
    LETTER,
    WIDTH,
    element,
    linear,
    mark,
    picture,
    polyline,
    x_axis,
)

UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
PHASES = 6  # colours
UNDER, LEGEND = 36.0, 20.0  # room for an axis below, and for the phases above


def _frame(rows: Rows, shown: Sequence[int]) -> tuple[float, list[float], float, list[Markup]]:
    """Left edge, each row's height, the bottom, and the rows' labels."""
    names = [str(rows.rows[place]["method"]) for place in shown]
    left = 12 + LETTER * min(LABEL, max(map(len, names)))
    gap = min(22.0, max(12.6, (BOTTOM - TOP) / len(shown)))
    heights = [TOP + gap * (i + 0.5) for i in range(len(shown))]
    pairs = zip(names, heights, strict=True)
    return left, heights, TOP + gap * len(shown), [label(n, left - 7, y, "end") for n, y in pairs]


def seeds(key: str, board: str, rows: Rows) -> Chart | None:
    """mAP of each seed; None where no row has two."""
    found = rows.seeds()
    shown = list(range(min(len(found), COLOURED)))
    if max(map(len, found)) < 2:
        return None
    left, heights, bottom, labels = _frame(rows, shown)
    x = linear([v for place in shown for _, v in found[place]], left, WIDTH - 12)
    parts = [x_axis(x, bottom, TOP, "mAP, %")]
    for place, y, name in zip(shown, heights, labels, strict=True):
        values = [v for _, v in found[place]]
        mean = x(sum(values) / len(values))
        lines = ([(x(min(values)), y), (x(max(values)), y)], [(mean, y - 5.5), (mean, y + 5.5)])
        inner = [element("path", d=polyline(line), klass="line") for line in lines]
        for seed, v in found[place]:
            inner.append(
                element("g", element("title", f"seed {seed}: {v:.1f}"), mark(place, x(v), y))
            )
        parts.append(group(board, place, name, *inner))
    title = "mAP of each seed, %"
    methods = [str(row["method"]) for row in rows.rows]
    names = sorted({seed for p in shown for seed, _ in found[p]}, key=lambda s: (len(s), s))
    values_of = [{seed: f"{v:.1f}" for seed, v in found[p]} for p in shown]
    body = tuple(
        (methods[p], *(of.get(name, "–") for name in names))
        for p, of in zip(shown, values_of, strict=True)
    )
    runs = sum(map(len, values_of))
    described = f"{runs} runs of {len(shown)} rows, and the mean of each row."
    shown_as = picture(key, title, described, *parts, height=bottom + UNDER)
    note = "The stroke is the mean." + left_out(len(found) - len(shown))
    return Chart(title, shown_as, ("Row", *(f"Seed {name}" for name in names)), body, note)


def seconds(key: str, board: str, rows: Rows) -> Chart | None:
    """Where the time goes: a bar a row, a part a phase; None where nothing was trained."""
    found = rows.seconds()
    shown = [place for place, phases in enumerate(found) if phases][:COLOURED]
    if not any("train" in found[place] for place in shown):
        return None
    longest = max(sum(found[place].values()) for place in shown)
    unit, divisor = next((u, d) for u, d in UNITS if longest >= 2 * d or d == 1.0)
    phases = list(dict.fromkeys(phase for place in shown for phase in found[place]))
    left, heights, bottom, labels = _frame(rows, shown)
    x = linear([longest / divisor], left, WIDTH - 16)
    inner = [x_axis(x, bottom, TOP, unit)]
    half = min(7.0, (heights[0] - TOP) * 0.72)
    for place, y, name in zip(shown, heights, labels, strict=True):
        bars, start = [name], left
        for phase, taken in found[place].items():
            width = x(taken / divisor) - left
            words = element("title", f"{phase}: {value(taken / divisor)} {unit}")
            look = f"p p{phases.index(phase) % PHASES}"
            bars.append(
                element(
                    "rect", words, x=start, y=y - half, width=width, height=2 * half, klass=look
                )
            )
            start += width
        inner.append(element("g", *bars, data_row=f"{board}r{place}", klass="s"))
    parts = [*_phases(phases, left), element("g", *inner, transform=f"translate(0 {LEGEND:g})")]
    title = f"Time by phase, {unit}"
    methods = [str(row["method"]) for row in rows.rows]
    body = tuple(
        (methods[p], *(value(found[p].get(k, 0.0) / divisor) for k in phases)) for p in shown
    )
    described = (
        f"{', '.join(phases)} of {len(shown)} rows; at most {value(longest / divisor)} {unit}."
    )
    shown_as = picture(key, title, described, *parts, height=bottom + LEGEND + UNDER)
    note = "Means over seeds, of the row’s own stage." + left_out(len(found) - COLOURED)
    return Chart(title, shown_as, ("Row", *phases), body, note)


def _phases(phases: Sequence[str], left: float) -> list[Markup]:
    """What the colours of the parts mean."""
    parts = []
    for i, phase in enumerate(phases):
        parts.append(
            element("rect", x=left, y=3.0, width=10.0, height=10.0, klass=f"p p{i % PHASES}")
        )
        parts.append(label(phase, left + 14, 8.2))
        left += 28 + LETTER * len(phase)
    return parts
