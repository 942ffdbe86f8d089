"""The little SVG that charts are made of: elements, scales and their ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

#: a chart's size in its own units, about a pixel each where three charts stand in a row
WIDTH, HEIGHT = 420, 264
#: a letter's mean width at the size of labels
LETTER = 5.9
SHAPES = ("circle", "square", "triangle", "diamond")
COLOURS = 8


def element(tag: str, *children: str, **attributes: object) -> Markup:
    """`<tag …>children</tag>`. Text and values are escaped unless they are markup already.

    `klass` is the attribute `class`, and `_` in a name stands for `-`.
    """
    written = "".join(
        f' {("class" if key == "klass" else key).replace("_", "-")}="{escape(_short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(escape(child) for child in children)
    return Markup(f"<{tag}{written}>{inner}</{tag}>" if inner else f"<{tag}{written}/>")


def _short(value: object) -> object:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value


def polyline(points: Sequence[tuple[float, float]]) -> str:
    """A path's data through points, in steps of tenths: short, as pages hold thousands."""
    tenths = [(round(10 * x), round(10 * y)) for x, y in points]
    (x, y), steps = tenths[0], []
    for to_x, to_y in tenths[1:]:
        steps.append(f"{_tenth(to_x - x)} {_tenth(to_y - y)}")
        x, y = to_x, to_y
    start = f"M{_tenth(tenths[0][0])} {_tenth(tenths[0][1])}"
    return start + (f"l{' '.join(steps)}" if steps else "h0")


def _tenth(value: int) -> str:
    return f"{value / 10:.1f}".removesuffix(".0")


def mark(place: int, x: float, y: float, size: float = 3.2) -> Markup:
    """The mark of a series: four shapes, as colours are eight."""
    shape = SHAPES[(place + place // COLOURS) % len(SHAPES)]
    if shape == "circle":
        return element("circle", cx=x, cy=y, r=size)
    if shape == "square":
        s = size * 0.9
        return element(
            "path",
            d=f"{polyline([(x - s, y - s), (x + s, y - s), (x + s, y + s), (x - s, y + s)])}z",
        )
    if shape == "triangle":
        s = size * 1.15
        return element(
            "path", d=f"{polyline([(x, y - s), (x + s, y + s * 0.8), (x - s, y + s * 0.8)])}z"
        )
    s = size * 1.25
    return element("path", d=f"{polyline([(x, y - s), (x + s, y), (x, y + s), (x - s, y)])}z")


def clipped(text: str, letters: int) -> str:
    """A label that has room, its end cut off."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


@dataclass(frozen=True)
class Scale:
    """Values to places along an axis, and the values that have a tick."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def linear(
    values: Sequence[float], start: float, end: float, zero: bool = True, whole: bool = False
) -> Scale:
    """A scale with about five round ticks.

    Args:
        start, end: places of its ends. zero: whether it begins at 0 (or below). whole: ticks of
            whole numbers only, ends at the lowest and highest value.
    """
    low, high = min(values), max(values)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        high = low + 1.0
    step = _round_step((high - low) / 4.5)
    if whole:
        step = max(1.0, step)
        first = math.ceil(low / step) * step
        count = math.floor((high - first) / step + 1e-9) + 1
        return Scale(low, high, start, end, tuple(first + i * step for i in range(count)))
    first = math.floor(low / step + 1e-9) * step
    count = math.ceil((high - first) / step - 1e-9)
    ticks = tuple(first + i * step for i in range(count + 1))
    return Scale(ticks[0], ticks[-1], start, end, ticks)


def logarithmic(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale for values above 0 with ticks at 1, 2 and 5 times powers of ten.

    It reaches a bit further than the values.
    """
    low, high = min(values) / 1.15, max(values) * 1.15
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [m * 10.0**p for p in powers for m in (1, 2, 5)]
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) > 6:
        inside = [tick for tick in inside if math.log10(tick) % 1 == 0] or inside
    return Scale(low, high, start, end, tuple(inside), log=True)


def _round_step(step: float) -> float:
    """1, 2 or 5 times a power of ten, the nearest above."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * 0.999)


def written(value: float) -> str:
    """A tick's value."""
    if value != 0 and abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}".replace("-", "−")


def x_axis(scale: Scale, y: float, top: float, title: str) -> Markup:
    """Grid, ticks and title along the bottom."""
    parts = []
    for tick in scale.ticks:
        x = scale(tick)
        parts.append(element("line", x1=x, x2=x, y1=top, y2=y, klass="grid"))
        parts.append(element("text", written(tick), x=x, y=y + 15, text_anchor="middle"))
    middle = (scale.start + scale.end) / 2
    parts.append(element("text", title, x=middle, y=y + 30, text_anchor="middle", klass="title"))
    return element("g", *parts, klass="axis")


def y_axis(scale: Scale, x: float, right: float) -> Markup:
    """Grid and ticks along the left."""
    parts = []
    for tick in scale.ticks:
        y = scale(tick)
        parts.append(element("line", x1=x, x2=right, y1=y, y2=y, klass="grid"))
        parts.append(element("text", written(tick), x=x - 6, y=y + 4, text_anchor="end"))
    return element("g", *parts, klass="axis")


def picture(key: str, title: str, described: str, *parts: str, height: float = HEIGHT) -> Markup:
    """A whole chart, with the text that stands for it.

    Args:
        key: unique in the page.
    """
    return element(
        "svg",
        element("title", title, id=f"{key}-t"),
        element("desc", described, id=f"{key}-d"),
        *parts,
        viewBox=f"0 0 {WIDTH} {_short(float(height))}",
        role="img",
        aria_labelledby=f"{key}-t {key}-d",
    )


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, in their order, `gap` apart and within limits where they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    places = [0.0] * len(wanted)
    above = low - gap
    for i in order:
        above = places[i] = max(wanted[i], above + gap)
    below = max(high, low + gap * (len(wanted) - 1)) + gap
    for i in reversed(order):
        below = places[i] = min(places[i], below - gap)
    return places
