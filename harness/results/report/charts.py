"""The charts of one table, as Vega-Lite specifications made with Altair.

Colors are CSS variables of the page, so that its charts follow light, dark and print.
`write_charts` replaces them by the colors of the light scheme and writes files for papers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import methodcaller
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert
from altair.utils.schemapi import debug_mode

from harness.core.files import write_atomically
from harness.results.palette import LIGHT, SCHEMES
from harness.results.report.chart_data import CURVES, ChartData, read_file

#: marker shapes as SVG paths in the square from −1 to 1
SHAPES = (
    "M-1,0A1,1 0 1 1 1,0A1,1 0 1 1 -1,0Z",
    "M-.9,-.9H.9V.9H-.9Z",
    "M0,-1.1L1.1,.9H-1.1Z",
    "M0,-1.2L1.2,0L0,1.2L-1.2,0Z",
    "M0,1.1L1.1,-.9H-1.1Z",
    "M-.4,-1.1H.4V-.4H1.1V.4H.4V1.1H-.4V.4H-1.1V-.4H-.4Z",
)
UNITS = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))
WIDTH, HEIGHT, ROW_HEIGHT = 400, 190, 19
EPOCHS_IN_TABLE = 8
#: highest / lowest value above which an axis is logarithmic; of the history, only of these keys
LOG_CURVE, LOG_COST, LOG_KEYS = 12.0, 4.0, ("loss", "clusters")
FONT_OF_FILES = "Liberation Sans, Arial, Helvetica, sans-serif"


@dataclass(frozen=True)
class Chart:
    """A chart, and its numbers as a table for readers who do not see it.

    name: its part of a file name. spec: Vega-Lite. numbers: text, by name of the row.
    """

    name: str
    title: str
    spec: dict[str, Any]
    numbers: pd.DataFrame
    note: str


def theme() -> dict[str, Any]:
    """The Vega-Lite config of all charts."""
    return json.loads(read_file("theme.json"))


def marker(place: int) -> tuple[str, str]:
    """Color and shape (an SVG path) of a row."""
    return f"var(--c{place % len(LIGHT)})", SHAPES[place % len(SHAPES)]


def charts(data: ChartData, left_out: int = 0) -> list[Chart]:
    """The charts that have something to show.

    Args:
        left_out: how many rows of the table are not in `data`.
    """
    with debug_mode(False):  # checks of the schema would take most of the time
        curves = [_curve(data, key) for key in CURVES]
        drawn = [_seeds(data), *curves, _cost(data), _hours(data)]
    note = f" {left_out} more rows are in the table only." if left_out else ""
    return [replace(one, note=(one.note + note).strip()) for one in drawn if one is not None]


def _seeds(data: ChartData) -> Chart | None:
    """mAP of each seed; None where no row has two."""
    seeds = data.seeds
    if not seeds["row"].duplicated().any():
        return None
    color, shape = _by_row(data, legend=False)
    x = alt.X("mAP:Q").title("mAP, %").scale(zero=True)
    rule = alt.Chart().mark_rule(strokeWidth=1.5).encode(x="min(mAP):Q", x2="max(mAP):Q")
    tick = alt.Chart().mark_tick(thickness=2, size=14)
    tick = tick.encode(x="mean(mAP):Q", tooltip=_tooltip("mean(mAP):Q mean mAP"))
    tooltip = _tooltip("seed:N seed", "mAP:Q mAP")
    point = alt.Chart().mark_point().encode(x=x, shape=shape, tooltip=tooltip)
    numbers = seeds.pivot_table(index="row", columns="seed", values="mAP")
    return _chart(
        data, "seeds", "mAP of each seed, %", seeds, {"y": _rows_axis(data), "color": color},
        [rule, tick, point], numbers, "The vertical stroke is the mean.",
    )  # fmt: skip


def _curve(data: ChartData, key: str) -> Chart | None:
    """A value of the history over epochs; None where no row has it in two epochs, or all are 0."""
    values = data.epochs.dropna(subset=[key]).groupby(["row", "epoch"])[key]
    curves = values.agg(["mean", "min", "max"]).round(5).reset_index()
    if not curves["row"].duplicated().any() or (curves["max"] == 0).all():
        return None
    first, last, low = curves["epoch"].min(), curves["epoch"].max(), curves["mean"].min()
    x = alt.X("epoch:Q").title("epoch (below 0: warm-up)" if first < 0 else "epoch")
    x = x.axis(format="d", tickMinStep=1, tickCount=7)
    x = x.scale(domain=[first, last], nice=False, zero=False)
    y = alt.Y("mean:Q").title(None).scale(zero=key != "nmi")
    notes = []
    if log := key in LOG_KEYS and 0 < low * LOG_CURVE < curves["mean"].max():
        y = y.scale(type="log", nice=False)
    color, shape = _by_row(data)
    line = alt.Chart().mark_line().encode(x=x, y=y)
    point = alt.Chart().mark_point(size=28).encode(x=x, y=y, shape=shape)
    layers = [line, point.encode(tooltip=_tooltip("epoch:N epoch", f"mean:Q {key}"))]
    if (curves["max"] > curves["min"]).any():
        band = alt.Chart().mark_area(fillOpacity=0.1).encode(x=x, y="min:Q", y2="max:Q")
        layers.insert(0, band)
        notes.append("Shaded: from the lowest to the highest seed.")
    notes += ["The axis is logarithmic."] if log else []
    untrained = data.rows[~data.rows["trained"]]
    if key == "mAP" and len(untrained):
        floor = _data_rule(untrained[["label", "name", "mAP"]]).transform_filter(IS_SHOWN)
        layers.append(floor.encode(y="mAP:Q", tooltip=_tooltip("mAP:Q mAP")))
        notes.append("Dotted: not trained.")
    if key == "clusters" and (identities := data.identities) is not None:
        rule = _data_rule(pd.DataFrame({"identities": [identities]})).encode(y="identities:Q")
        layers.append(rule.encode(color=alt.value("var(--faint)"), opacity=alt.value(1)))
        notes.append(f"Dotted: the {identities} identities.")
    return _chart(
        data, key, CURVES[key], curves, {"color": color}, layers, _epochs_table(curves),
        " ".join(notes), HEIGHT,
    )  # fmt: skip


def _epochs_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Means at a few epochs, and the range over seeds at the last one."""
    numbers = curves.pivot_table(index="row", columns="epoch", values="mean").map(_number)
    count = len(numbers.columns)
    kept = np.linspace(0, count - 1, min(count, EPOCHS_IN_TABLE)).round().astype(int)
    numbers = numbers.iloc[:, kept].rename(columns=lambda epoch: f"{epoch:.0f}")
    ends = curves.sort_values("epoch").groupby("row").last()
    spread = ends["min"].map(_number) + " to " + ends["max"].map(_number)
    return numbers.assign(**{"Seeds, at last": spread.where(ends["max"] > ends["min"])})


def _cost(data: ChartData) -> Chart | None:
    """mAP by measured cost; None where fewer than two trained rows have one."""
    timed = data.rows["trained"] & data.rows["cost"].notna()
    rows = data.rows[timed].drop(columns=["name", "label", "trained"])
    if len(rows) < 2:
        return None
    cost, spread = rows["cost"], rows.pop("mAP_std").fillna(0.0)
    rows["low"] = (rows["mAP"] - spread).clip(lower=0)
    rows["high"] = (rows["mAP"] + spread).clip(upper=100)
    x = alt.X("cost:Q").title(f"cost: hours of the schedule over those of {data.reference}")
    x = x.scale(zero=True).axis(labelFlush=False, labelOverlap="greedy", tickCount=8)
    if log := cost.max() > LOG_COST * cost.min():
        x = x.scale(type="log", nice=False, padding=12)
    y = alt.Y("mAP:Q").title("mAP, %").scale(zero=True)
    color, shape = _by_row(data)
    bars = alt.Chart().mark_rule().encode(x=x, y="low:Q", y2="high:Q")
    point = alt.Chart().mark_point(size=60).encode(x=x, y=y, shape=shape)
    tooltip = _tooltip("mAP:Q mAP", "cost:Q cost")
    notes = ["Bars: ± one standard deviation over seeds."] if spread.any() else []
    notes += ["The horizontal axis is logarithmic."] if log else []
    trained = data.rows["trained"]
    if names := ", ".join(data.rows["name"][~trained]):
        notes.append(f"Not trained: {names}.")
    if names := ", ".join(data.rows["name"][trained & ~timed]):
        notes.append(f"Not timed: {names}.")
    numbers = rows.set_index("row")[["cost", "mAP"]]
    numbers.columns = pd.Index(["Cost", "mAP"])
    return _chart(
        data, "cost", "Accuracy against cost: mAP, %", rows, {"color": color},
        [bars, point.encode(tooltip=tooltip)], numbers, " ".join(notes), HEIGHT,
    )  # fmt: skip


def _hours(data: ChartData) -> Chart | None:
    """Measured time of each phase; None where nothing that trains was measured."""
    hours = data.hours
    if "train" not in set(hours["phase"]):
        return None
    hours = hours[hours["hours"] > 0]
    longest = 3600 * hours.groupby("row")["hours"].sum().max()
    unit, divisor = next((u, d) for u, d in UNITS if longest >= 2 * d or d == 1.0)
    phases = list(dict.fromkeys(hours["phase"]))
    times = hours[["row", "phase"]].assign(time=hours["hours"] * 3600 / divisor)
    times["order"] = times["phase"].map(phases.index)
    color = alt.Color("phase:N").legend(columns=len(phases), orient="top", symbolType="square")
    color = color.scale(domain=phases, range=[f"var(--p{i % 6})" for i in range(len(phases))])
    x, tooltip = alt.X("time:Q").title(unit), _tooltip("phase:N phase", f"time:Q {unit}")
    bars = alt.Chart().mark_bar(stroke="var(--ground)", strokeWidth=0.8, size=14)
    numbers = times.pivot_table(index="row", columns="phase", values="time")[phases]
    return _chart(
        data, "time", f"Time by phase, {unit}", times.round(5),
        {"y": _rows_axis(data), "color": color},
        [bars.encode(x=x, order="order:O", tooltip=tooltip)], numbers,
        "Of the method’s whole schedule, all stages, as timed by harness bench methods.",
    )  # fmt: skip


#: filter of the page: `shown` are the labels of the chart's rows that its filters leave
IS_SHOWN = "indexof(shown, datum.label) >= 0"


def _chart(
    data: ChartData, name: str, title: str, frame: pd.DataFrame, channels: dict[str, Any],
    layers: Sequence[alt.Chart], numbers: pd.DataFrame, note: str, height: int | None = None,
) -> Chart:  # fmt: skip
    """Layers over one frame, and its numbers as text.

    Args:
        channels: encoding that all layers share. height: in pixels; None: by the number of rows.
    """
    # `hot` is the label of the row under the page's pointer
    opacity = alt.when("hot == '' || hot == datum.label").then(alt.value(1))
    encoding = alt.SharedEncoding(**channels, opacity=opacity.otherwise(alt.value(0.15)))
    nested = frame.groupby("row", sort=False).agg(list)  # shorter than a record for each point
    rows = data.rows[["row", "label", "name"]].merge(nested.reset_index(), on="row")
    chart = alt.layer(*layers, data=_inline(rows.drop(columns="row")), encoding=encoding)
    chart = chart.transform_flatten([*map(str, nested)]).transform_filter(IS_SHOWN).properties(
        width=WIDTH, height=height or ROW_HEIGHT * len(rows),
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        description=f"{title}. {len(rows)} rows; their numbers are in the table below.",
    )  # fmt: skip
    spec = chart.to_dict(validate=False)
    del spec["config"]
    drawn = {record.get("label") for values in spec["datasets"].values() for record in values}
    shown = [label for label in data.rows["label"] if label in drawn]
    spec["params"] = [{"name": "shown", "value": shown}, {"name": "hot", "value": ""}]
    numbers = numbers.loc[[row for row in data.rows["row"] if row in numbers.index]]
    numbers = numbers.map(lambda value: value if isinstance(value, str) else _number(value))
    numbers.index = pd.Index(data.rows.set_index("row")["name"].loc[numbers.index])
    return Chart(name, title, spec, numbers, note)


def _by_row(data: ChartData, legend: bool = True) -> tuple[alt.Color, alt.Shape]:
    """Color and shape of each row, the same in all charts."""
    labels = list(data.rows["label"])
    colors, shapes = zip(*map(marker, range(len(labels))), strict=True)
    entries = alt.Legend(values=alt.ExprRef("shown")) if legend else None
    color = alt.Color("label:N", scale=alt.Scale(domain=labels, range=colors), legend=entries)
    shape = alt.Shape("label:N", scale=alt.Scale(domain=labels, range=shapes), legend=entries)
    return color, shape


def _rows_axis(data: ChartData) -> alt.Y:
    return alt.Y("label:N").title(None).sort(list(data.rows["label"]))


def _data_rule(frame: pd.DataFrame) -> alt.Chart:
    """Dotted horizontal lines with data of their own."""
    return alt.Chart(_inline(frame)).mark_rule(strokeDash=[2, 3])


def _inline(frame: pd.DataFrame) -> alt.InlineData:
    return alt.InlineData(values=json.loads(frame.to_json(orient="records")))


def _tooltip(*fields: str) -> list[alt.Tooltip]:
    """The full name of the row, and fields as `field:type title`."""
    pairs = [field.split(" ", 1) for field in ("name:N row", *fields)]
    return [alt.Tooltip(f, title=t, format=",.4~g" if ":Q" in f else "") for f, t in pairs]


def _number(value: float) -> str:
    """About three digits; '–' if missing."""
    if pd.isna(value):
        return "–"
    return f"{value:.{0 if abs(value) >= 1000 else 1 if abs(value) >= 10 else 2}f}"


def write_charts(drawn: Sequence[Chart], folder: Path, table: str, style: str) -> list[Path]:
    """Write FOLDER/TABLE-CHART.STYLE: svg, png or pdf, in the light colors, on white."""
    written = []
    for chart in drawn:
        config = theme() | {"background": "white", "font": FONT_OF_FILES}
        title = {"text": chart.title, "anchor": "start", "frame": "group", "fontSize": 12}
        spec = json.dumps(chart.spec | {"config": config, "title": title})
        spec = re.sub(r"var\(--(\w+)\)", lambda found: SCHEMES["light"][found[1]], spec)
        options = {"scale": 3} if style == "png" else {}
        content = getattr(vl_convert, f"vegalite_to_{style}")(spec, **options)
        data = content.encode() if style == "svg" else content
        written.append(folder / f"{table}-{chart.name}.{style}")
        write_atomically(written[-1], methodcaller("write", data))
    return written
