"""The config section `images`: builds the augmentation and describes it on the protocol card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.core.errors import ConfigError
from harness.core.preprocessing import IMAGENET, Preprocessing
from harness.data.augment import Augment

#: options that the protocol card and the settings hash omit at their defaults
DEFAULTS: dict[str, Any] = {
    "blur": 0.0, "erase_area": [0.02, 0.4], "erase_aspect": [0.3, 1 / 0.3],
    "part_area": None, "part_aspect": [2.0, 3.0],
}  # fmt: skip


def make_augment(images: Mapping[str, Any], preprocessing: Preprocessing = IMAGENET) -> Augment:
    """Build the augmentation from the section `images`, for a backbone's `preprocessing`.

    Raises ConfigError if a value is not a range of numbers, or an area is above 1.
    """
    images = {**DEFAULTS, **images}
    ranges = {key: _range(key, images[key]) for key in DEFAULTS if key != "blur"}
    for key in ("erase_area", "part_area"):
        if ranges[key] is not None and ranges[key][1] > 1:
            raise ConfigError(f"images.{key}={images[key]} is more than the whole image.")
    shares = {key: images[key] for key in ("flip", "pad", "erase", "blur")}
    mean, std = preprocessing.mean, preprocessing.std
    size = int(images["height"]), int(images["width"])
    return Augment(size, mean=mean, std=std, erase_fill=mean, **shares, **ranges)


def describe(images: Mapping[str, Any]) -> str:
    """The protocol card's line on augmentation."""
    images = {**DEFAULTS, **images}
    text = f"flip {images['flip']:g}, pad {images['pad']} and crop, erase {images['erase']:g}"
    for key, name in (("erase_area", "area"), ("erase_aspect", "aspect")):
        if list(images[key]) != DEFAULTS[key]:
            text += f" of {name} {_format_range(images[key])}"
    if images["blur"]:
        text += f", blur {images['blur']:g}"
    if images["part_area"] is not None:
        text += f", parts of area {_format_range(images['part_area'])}"
        text += f" and aspect {_format_range(images['part_aspect'])}, resized"
    return text


def _range(key: str, value: Any) -> Any:
    if value is None and DEFAULTS[key] is None:
        return None
    try:
        low, high = (float(x) for x in value)
    except (TypeError, ValueError):
        low, high = 0.0, 0.0
    if not 0 < low <= high < float("inf") or isinstance(value, str):
        raise ConfigError(
            f"images.{key}={value} must be two positive numbers, the lower first.",
            f"For example images.{key}={'[0.64,1]' if key == 'part_area' else DEFAULTS[key]}.",
        )
    return low, high


def _format_range(values: Any) -> str:
    return "-".join(f"{float(value):g}" for value in values)
