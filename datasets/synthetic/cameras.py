"""Cameras: scene, colors and typical headings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .draws import Draws

PANORAMA = 6  # width of a scene in image widths


@dataclass(frozen=True)
class Camera:
    """Properties shared by all images of one camera.

    mixing: (3, 3) int32, output × input channels in 1/1024 (white balance, saturation).
    tone: strength of the tone curve x + tone·x(1−x).
    scene: `PANORAMA` × as wide as an image, 1.25 × as high.
    """

    mixing: np.ndarray
    tone: float
    contrast: float
    offset: float
    noise: int
    softness: float
    headings: tuple[str, ...]
    tallness: float
    scene: Image.Image


def make_camera(draws: Draws, canvas: tuple[int, int], strength: float) -> Camera:
    """A camera with its own scene, and colors that deviate by `strength` (0: not at all).

    `canvas` is (height, width) of the supersampled image.
    """

    def around(value: float, spread: float) -> float:
        return value + strength * draws.uniform(-spread, spread)

    saturation = around(0.9, 0.13)
    gains = [around(1.0, 0.08), around(1.0, 0.04), around(1.0, 0.1)]
    gray = (1 - saturation) / 3
    mixing = [
        [gains[o] * (gray + (saturation if o == i else 0.0)) * 1024 for i in range(3)]
        for o in range(3)
    ]
    favorite = draws.pick(("front", "back", "side"))
    return Camera(
        mixing=np.array([[round(value) for value in row] for row in mixing], dtype=np.int32),
        tone=around(0.0, 0.3),
        contrast=around(0.92, 0.065),
        offset=around(4.0, 5.0),
        noise=round(draws.uniform(4, 12)),
        softness=draws.uniform(1.0, 1.7),
        headings=("front", "back", "side", favorite, favorite),
        tallness=draws.uniform(0.92, 1.0),
        scene=_scene(draws, canvas),
    )


def _scene(draws: Draws, canvas: tuple[int, int]) -> Image.Image:
    """A wall with openings above a floor with joints, several images wide."""
    height, width = canvas[0] * 5 // 4, canvas[1] * PANORAMA
    wall_level = 105 + draws.integer(50)
    wall = tuple(wall_level + draws.integer(26) for _ in range(3))
    floor_level = 95 + draws.integer(60)
    floor = tuple(floor_level + draws.integer(24) for _ in range(3))
    horizon = round(height * draws.uniform(0.45, 0.7))
    scene = Image.new("RGB", (width, height), wall)
    draw = ImageDraw.Draw(scene)
    step = max(2, round(height * draws.uniform(0.05, 0.16)))
    line, thick = tuple(c * 88 // 100 for c in wall), 1 + height // 150
    for y in range(step, horizon, step):
        draw.line((0, y, width, y), fill=line, width=thick)
    for _ in range(9):
        x, y = draws.integer(width), draws.integer(horizon)
        w, h = height // 12 + draws.integer(width // 10), height // 10 + draws.integer(height // 3)
        level = 60 + draws.integer(120)
        fill = tuple(level + draws.integer(36) for _ in range(3))
        draw.rectangle((x, y, x + w, min(y + h, horizon)), fill=fill)
    draw.rectangle((0, horizon, width, height), fill=floor)
    lean = round(draws.uniform(-0.5, 0.5) * height)
    joint = tuple(c * (80 + 8 * draws.integer(5)) // 100 for c in floor)
    for x in range(-height, width + height, max(6, height // (2 + draws.integer(6)))):
        draw.line((x, horizon, x + lean, height), fill=joint, width=1 + height // 80)
    return scene


def develop(
    pixels: np.ndarray, camera: Camera, exposure: float, light: float, draws: Draws
) -> np.ndarray:
    """Apply the camera's colors, the lighting and noise to an image (H, W, 3) uint8.

    `exposure` is a factor of brightness; `light` −1 … 1 that of the right edge relative to the left
    one.
    """
    width = pixels.shape[1]
    mixed = (pixels.reshape(-1, 3).astype(np.int32) @ camera.mixing.T).reshape(pixels.shape) >> 10
    # 1024ths of brightness per column; integers make rounding machine-independent
    ramp = np.arange(width, dtype=np.int32) * round(2048 * 0.25 * light) // max(1, width - 1)
    ramp += round(1024 * exposure) - round(1024 * 0.25 * light)
    mixed = np.clip((mixed * ramp[None, :, None]) >> 10, 0, 255)
    level = np.arange(256) / 255.0
    curve = camera.contrast * (level + camera.tone * level * (1 - level)) * 255.0 + camera.offset
    recorded = np.rint(curve).astype(np.int32)[mixed]
    grain = draws.bytes(pixels.size).reshape(pixels.shape).astype(np.int32) - 128
    return np.clip(recorded + ((grain * camera.noise) >> 7), 0, 255).astype(np.uint8)
