"""Charts over epochs: accuracy, loss, and how good the clusters are."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from harness.results.report.chart import (
    BOTTOM,
    COLOURED,
    LABEL,
    LEFT,
    TOP,
    Chart,
    group,
    label,
    value,
)
from harness.results.report.series import Rows, Series, thinned
from harness.results.report.svg import (
    LETTER,
    WIDTH,
    Scale,
    element,
    linear,
    logarithmic,
    mark,
    picture,
    polyline,
    spread_out,
    written,
    x_axis,
    y_axis,
)

#: key in the history → title, and whether the axis begins at 0
CURVES = {
    "mAP": ("mAP on the test set, %", True),
    "loss": ("Training loss, each method’s own", True),
    "clusters": ("Clusters", True),
    "outliers": ("Outliers: images without a label", True),
    "ari": ("ARI: clusters against identities", True),
    "nmi": ("NMI: clusters against identities", False),
}
POINTS, TABLED, MARKS = 120, 8, 6
#: a label's height, and how many times the lowest value the highest is on a logarithmic axis
GAP, WIDE = 12.6, 12.0


def over_epochs(key: str, board: str, rows: Rows, name: str) -> Chart | None:
    """The chart of a value of the history; None where no row has it in two epochs.

    Args:
        key: the chart's identifier. board: the table's.
    """
    title, zero = CURVES[name]
    series = rows.over_epochs(name)
    if not any(len(one.epochs) > 1 for one in series):
        return None
    floors = rows.untrained() if name == "mAP" else []
    if name == "clusters" and (people := rows.identities()) is not None:
        floors = [("identities", float(people))]
    labelled = [one for one in series if one.place < COLOURED]
    named = [*(one.label for one in labelled), *(text for text, _ in floors)]
    right = WIDTH - 14 - LETTER * min(LABEL, max(len(text) for text in named))
    values = [v for one in series for v in (*one.low, *one.high)] + [v for _, v in floors]
    epochs = [epoch for one in series for epoch in one.epochs]
    x = linear(epochs, LEFT, right - 12, zero=False, whole=True)
    log = name in ("loss", "clusters") and min(values) > 0 and max(values) > WIDE * min(values)
    y = logarithmic(values, BOTTOM, TOP) if log else linear(values, BOTTOM, TOP, zero=zero)
    wanted = [y(one.mean[-1]) for one in labelled] + [y(v) for _, v in floors]
    places = spread_out(wanted, GAP, TOP + 4, BOTTOM)
    parts = [x_axis(x, BOTTOM, TOP, "epoch"), y_axis(y, LEFT, right - 12)]
    for (text, floor), place in zip(floors, places[len(labelled) :], strict=True):
        line = polyline([(LEFT, y(floor)), (right - 12, y(floor)), (right - 2, place)])
        dotted = element("path", d=line)
        parts.append(element("g", dotted, label(text, right, place), klass="floor"))
    at = {one.place: place for one, place in zip(labelled, places, strict=False)}
    parts += [  # the best row lies on top
        group(board, one.place, *_line(one, x, y, right, at.get(one.place)))
        for one in reversed(series)
    ]
    ends = sorted(series, key=lambda one: -one.mean[-1])
    described = ", ".join(f"{one.label} {value(one.mean[-1])}" for one in ends)
    said = {
        "Shaded: from the lowest to the highest seed.": any(one.spreads for one in series),
        "Logarithmic.": log,
        f"In grey: rows below the best {COLOURED}.": len(series) > len(labelled),
    }
    notes = [note for note, holds in said.items() if holds]
    shown = picture(key, title, f"At the last epoch: {described}.", *parts)
    return Chart(title, shown, *_numbers(series), " ".join(notes))


def _line(one: Series, x: Scale, y: Scale, right: float, place: float | None) -> list[Markup]:
    """A row's spread, line and marks, and the label at its end if it has a place."""
    kept = thinned(len(one.epochs), POINTS)
    at = [(x(one.epochs[i]), i) for i in kept]
    parts = []
    if one.spreads:
        above = [(px, y(one.high[i])) for px, i in at]
        below = [(px, y(one.low[i])) for px, i in reversed(at)]
        parts.append(element("path", d=f"{polyline(above + below)}z", klass="band"))
    points = [(px, y(one.mean[i])) for px, i in at]
    parts.append(element("path", d=polyline(points), klass="line"))
    parts += [mark(one.place, *points[i], 2.6) for i in thinned(len(points), MARKS)]
    if place is not None:
        parts.append(element("path", d=polyline([points[-1], (right - 2, place)]), klass="lead"))
        parts.append(label(one.label, right, place))
    return parts


def _numbers(series: Sequence[Series]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Rows by epochs, thinned, and the range over seeds at the end."""
    epochs = sorted({epoch for one in series for epoch in one.epochs})
    kept = [epochs[i] for i in thinned(len(epochs), TABLED)]
    body = []
    for one in series:
        known = dict(zip(one.epochs, one.mean, strict=True))
        cells = [value(known[epoch]) if epoch in known else "–" for epoch in kept]
        spread = f"{value(one.low[-1])} to {value(one.high[-1])}" if one.spreads else "–"
        body.append((one.label, *cells, spread))
    return ("Epoch", *map(written, kept), "Seeds, at last"), tuple(body)
