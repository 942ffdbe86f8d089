"""Persons: clothes and drawing.

Clothes come from two small wardrobes, so that many identities share a top or a bottom and some
share both. These differ in details only: hair, bag, pattern, sleeves, shoes, build.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import ImageDraw

from .draws import Draws

Color = tuple[int, int, int]
Joint = tuple[float, float, float]  # x, y, half width

TOPS: tuple[Color, ...] = (
    (38, 38, 44), (218, 216, 208), (168, 44, 48), (48, 74, 142), (62, 116, 74), (196, 164, 72),
    (124, 124, 126), (150, 92, 136), (206, 112, 44), (52, 140, 146),
)  # fmt: skip
BOTTOMS: tuple[Color, ...] = (
    (34, 36, 42), (54, 70, 108), (116, 108, 98), (176, 160, 126), (92, 62, 48), (196, 194, 188),
    (84, 96, 58), (118, 42, 52),
)  # fmt: skip
HAIR: tuple[Color, ...] = ((28, 24, 22), (74, 48, 32), (150, 116, 68), (128, 124, 120))
SKIN: tuple[Color, ...] = ((226, 184, 156), (190, 140, 106), (120, 82, 60))
EXTRAS: tuple[Color, ...] = (
    (30, 30, 32), (190, 48, 44), (220, 218, 212), (58, 96, 160), (206, 158, 52), (96, 66, 46),
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """The appearance of an identity, the same in every camera."""

    top: Color
    bottom: Color
    second: Color  # color of stripes, logo, or the shirt under an open jacket
    pattern: str
    long_sleeves: bool
    legs: str
    hair: Color
    long_hair: bool
    skin: Color
    shoes: Color
    bag: str
    bag_color: Color
    right_handed: bool  # the shoulder that carries the bag
    girth: float  # width relative to height


def _near(draws: Draws, color: Color, spread: int = 9) -> Color:
    """The color of a garment: the wardrobe's with a small deviation."""
    r, g, b = (min(255, max(0, c + draws.integer(2 * spread + 1) - spread)) for c in color)
    return r, g, b


def draw_look(draws: Draws) -> Look:
    """A random appearance."""
    return Look(
        top=_near(draws, draws.pick(TOPS)),
        bottom=_near(draws, draws.pick(BOTTOMS)),
        second=_near(draws, draws.pick(EXTRAS)),
        pattern=draws.pick(("plain", "plain", "stripes", "logo", "jacket", "block")),
        long_sleeves=draws.chance(0.6),
        legs=draws.pick(("trousers", "trousers", "trousers", "shorts", "skirt")),
        hair=draws.pick(HAIR),
        long_hair=draws.chance(0.4),
        skin=_near(draws, draws.pick(SKIN)),
        shoes=draws.pick(EXTRAS),
        bag=draws.pick(("none", "none", "backpack", "handbag", "strap")),
        bag_color=_near(draws, draws.pick(EXTRAS)),
        right_handed=draws.chance(0.5),
        girth=draws.uniform(1.2, 1.55),
    )


def in_clothes_of(look: Look, other: Look) -> Look:
    """A look-alike: top and bottom of the other look, own details."""
    return replace(look, top=other.top, bottom=other.bottom, legs=other.legs)


@dataclass(frozen=True)
class Pose:
    """The pose of a person in one image."""

    view: str  # front, back or side
    stride: float  # −1 … 1, the walking phase
    mirrored: bool


class _Pen:
    """Draws in units of body height, relative to the top center of the head."""

    def __init__(self, draw: ImageDraw.ImageDraw, x: float, y: float, unit: float, wide: float):
        self.draw, self.x, self.y, self.unit, self.wide = draw, x, y, unit, wide

    def _point(self, x: float, y: float) -> tuple[int, int]:
        return round(self.x + x * self.wide), round(self.y + y * self.unit)

    def limb(self, a: Joint, b: Joint, color: Color) -> None:
        """A tapering bar between two joints."""
        ends = ((a, -1), (a, 1), (b, 1), (b, -1))
        corners = [self._point(joint[0] + side * joint[2], joint[1]) for joint, side in ends]
        self.draw.polygon(corners, fill=color)

    def blob(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        """An ellipse around (x, y)."""
        (x0, y0), (x1, y1) = self._point(x - rx, y - ry), self._point(x + rx, y + ry)
        self.draw.ellipse((min(x0, x1), y0, max(x0, x1), y1), fill=color)


def _shade(color: Color, percent: int) -> Color:
    r, g, b = color
    return r * percent // 100, g * percent // 100, b * percent // 100


def draw_person(
    draw: ImageDraw.ImageDraw, look: Look, pose: Pose, x: float, y: float, unit: float
) -> None:
    """Draw a person of height `unit` pixels with the top of the head at (x, y)."""
    pen = _Pen(draw, x, y, unit, unit * look.girth * (-1 if pose.mirrored else 1))
    side = pose.view == "side"
    # the right shoulder is on the right of the image only from behind
    strap = 1 if look.right_handed == (pose.view == "back") else -1
    shoulder = 0.075 if side else 0.118
    waist = 0.066 if side else 0.092
    if look.bag == "backpack" and side:
        pen.limb((-shoulder - 0.03, 0.19, 0.05), (-shoulder - 0.035, 0.43, 0.06), look.bag_color)
    _legs(pen, look, pose, waist)
    _arm(pen, look, pose, -1, shoulder, _shade(look.top, 78), _shade(look.skin, 80))
    _torso(pen, look, pose, shoulder, waist)
    if look.bag == "backpack" and pose.view == "back":
        pen.limb((0, 0.19, 0.085), (0, 0.45, 0.095), look.bag_color)
        pen.limb((0, 0.34, 0.06), (0, 0.43, 0.06), _shade(look.bag_color, 75))
    if look.bag == "backpack" and pose.view == "front":
        for x_strap in (-0.07, 0.07):
            pen.limb((x_strap, 0.17, 0.014), (x_strap, 0.36, 0.014), look.bag_color)
    _arm(pen, look, pose, 1, shoulder, _shade(look.top, 90), look.skin)
    if look.bag == "strap":
        end, hip = -strap * waist, -strap * waist * 1.15
        pen.limb((strap * shoulder * 0.7, 0.17, 0.016), (end, 0.48, 0.016), look.bag_color)
        pen.limb((hip, 0.46, 0.05), (hip, 0.58, 0.055), look.bag_color)
    if look.bag == "handbag":
        at = 0.04 if side else strap * (shoulder + 0.035)
        pen.limb((at, 0.52, 0.045), (at, 0.66, 0.055), look.bag_color)
    _head(pen, look, pose)


def _legs(pen: _Pen, look: Look, pose: Pose, waist: float) -> None:
    bare = look.legs != "trousers"
    for which, percent in ((-1, 76), (1, 100)):
        if pose.view == "side":
            hip, knee, foot = 0.0, which * pose.stride * 0.085 + 0.012, which * pose.stride * 0.17
            lift, toe = 0.0, 0.028
        else:
            hip = knee = foot = which * waist * 0.52
            lift, toe = max(0.0, which * pose.stride) * 0.035, 0.0
        cloth, skin = _shade(look.bottom, percent), _shade(look.skin, percent)
        ankle, thick = 0.945 - lift, 0.05
        pen.limb((hip, 0.50, thick), (knee, 0.73 - lift / 2, thick * 0.8), cloth)
        upper, lower = (0.6, 0.45) if bare else (0.8, 0.62)
        below_knee, above_foot = (
            (knee, 0.72 - lift / 2, thick * upper),
            (foot, ankle, thick * lower),
        )
        pen.limb(below_knee, above_foot, skin if bare else cloth)
        pen.blob(foot + toe, ankle + 0.022, 0.05 if toe else 0.036, 0.027, look.shoes)
    if look.legs == "skirt":
        pen.limb((0, 0.47, waist), (0, 0.71, waist * 1.35), look.bottom)


def _arm(
    pen: _Pen, look: Look, pose: Pose, which: int, shoulder: float, cloth: Color, skin: Color
) -> None:
    if pose.view == "side":
        swing = -which * pose.stride
        top, elbow, hand = 0.0, swing * 0.06 - 0.01, swing * 0.12 + 0.02
    else:
        top, elbow = which * (shoulder - 0.012), which * (shoulder + 0.028)
        hand = which * (shoulder + 0.024)
    pen.limb((top, 0.175, 0.032), (elbow, 0.345, 0.028), cloth)
    pen.limb((elbow, 0.335, 0.026), (hand, 0.49, 0.021), cloth if look.long_sleeves else skin)
    pen.blob(hand, 0.505, 0.022, 0.024, skin)


def _torso(pen: _Pen, look: Look, pose: Pose, shoulder: float, waist: float) -> None:
    pen.limb((0, 0.155, shoulder * 0.7), (0, 0.20, shoulder), look.top)
    pen.limb((0, 0.198, shoulder), (0, 0.52, waist), look.top)
    if look.pattern == "stripes":
        for row in range(4):
            at = 0.225 + 0.075 * row
            pen.limb((0, at, shoulder * 0.96), (0, at + 0.032, shoulder * 0.94), look.second)
    elif look.pattern == "block":
        pen.limb((0, 0.37, (shoulder + waist) / 2), (0, 0.52, waist), look.second)
    elif look.pattern == "logo" and pose.view != "side":
        high = 0.25 if pose.view == "front" else 0.23
        pen.limb((0, high, 0.055), (0, high + 0.09, 0.055), look.second)
    elif look.pattern == "jacket" and pose.view != "back":
        at = 0.0 if pose.view == "front" else shoulder * 0.7
        pen.limb((at, 0.16, 0.022), (at, 0.51, 0.04 if pose.view == "front" else 0.02), look.second)
    if pose.view != "side":  # light comes from one side
        pen.limb((-shoulder * 0.82, 0.2, 0.018), (-waist * 0.85, 0.52, 0.014), _shade(look.top, 82))


def _head(pen: _Pen, look: Look, pose: Pose) -> None:
    pen.limb((0, 0.12, 0.03), (0, 0.175, 0.034), _shade(look.skin, 85))
    if look.long_hair:
        behind = -0.03 if pose.view == "side" else 0.0
        pen.blob(behind, 0.115, 0.05 if pose.view == "side" else 0.07, 0.105, look.hair)
    pen.blob(0, 0.075, 0.056, 0.072, look.hair)
    if pose.view == "front":
        pen.blob(0, 0.092, 0.044, 0.052, look.skin)
    elif pose.view == "side":
        pen.blob(0.024, 0.09, 0.036, 0.05, look.skin)
    elif look.long_hair:
        pen.blob(0, 0.15, 0.062, 0.085, look.hair)
