"""How images become the input of a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from harness.core.errors import ConfigError

Color = tuple[float, float, float]
Interpolation = Literal["bicubic", "bilinear", "lanczos", "nearest"]
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)


@dataclass(frozen=True)
class Preprocessing:
    """What a backbone's weights were trained with, by default on ImageNet.

    mean, std: of RGB values in 0 … 1; the input is (x / 255 − mean) / std. Random erasing fills
        with the mean, after the normalization, as the published code does.
    interpolation: Pillow's filter that resizes images before they are stored in the image cache.

    Raises:
        ConfigError: a value is impossible.
    """

    mean: Color = (0.485, 0.456, 0.406)
    std: Color = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(0 <= value <= 1 for value in values):
                raise ConfigError(
                    f"backbone.{name}={list(values)} must be three numbers from 0 to 1, for red, "
                    "green and blue."
                )
        if min(self.std) <= 0:
            raise ConfigError(f"backbone.std={list(self.std)} must be above 0.")
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(
                f"backbone.interpolation={self.interpolation} is unknown.",
                f"Choose {', '.join(INTERPOLATIONS)}.",
            )

    def lines(self) -> dict[str, str]:
        """Lines of the protocol card: only what differs from `IMAGENET`."""
        found = {}
        if (self.mean, self.std) != (IMAGENET.mean, IMAGENET.std):
            mean, std = (" ".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
            found["normalization"] = f"mean {mean}, std {std}"
        if self.interpolation != IMAGENET.interpolation:
            found["interpolation"] = self.interpolation
        return found

    def as_dict(self) -> dict[str, Any]:
        """For the metadata of exported networks."""
        return {
            "mean": list(self.mean), "std": list(self.std), "interpolation": self.interpolation,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `as_dict`."""
        mean, std = (tuple(map(float, values[key])) for key in ("mean", "std"))
        return cls(mean, std, str(values["interpolation"]))  # type: ignore[arg-type]


IMAGENET = Preprocessing()
