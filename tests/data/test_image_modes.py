"""Images of every mode become RGB: right, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.core import errors
from harness.core.errors import DataError
from harness.data.image_cache import build_image_cache, find_bad
from harness.data.image_files import ImageFiles, to_rgb

GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOR = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
WIDE = GREY.astype(np.uint16) * 257
#: every mode that Pillow opens files in, except those with more than 8 bits
MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]


def grey(values: np.ndarray) -> np.ndarray:
    """(H, W) as (H, W, 3)."""
    return np.repeat(values[..., None], 3, axis=2)


def image(mode: str) -> Image.Image:
    """COLOR in a mode, with transparency if it has any."""
    if mode in ("RGBA", "RGBX"):
        return Image.fromarray(np.dstack([COLOR, GREY]), mode="RGBA")
    if mode in ("LA", "PA"):
        made = Image.fromarray(np.dstack([GREY, GREY]), mode="LA")
        return made.convert(mode)
    if mode == "LAB":
        return Image.frombytes("LAB", (16, 16), COLOR.tobytes())
    return Image.fromarray(COLOR).convert(mode)


@pytest.mark.parametrize("mode", MODES)
def test_8_bits_are_converted_as_pillow_does(mode: str) -> None:
    made = image(mode)
    np.testing.assert_array_equal(to_rgb(made), made.convert("RGB"))
    if mode in ("RGB", "RGBA"):
        np.testing.assert_array_equal(to_rgb(made), COLOR)
    if mode == "LA":
        np.testing.assert_array_equal(to_rgb(made), grey(GREY))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_transparency_is_dropped(tmp_path: Path) -> None:
    """Transparent pixels keep the color that is stored, whichever way they are marked."""
    Image.fromarray(np.dstack([COLOR, GREY]), mode="RGBA").save(tmp_path / "rgba.png")
    palette = Image.fromarray(GREY).convert("P")
    palette.save(tmp_path / "one.png", transparency=7)
    palette.save(tmp_path / "some.png", transparency=bytes(range(256)))
    Image.fromarray(COLOR).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    source = ImageFiles(tmp_path, ["rgba.png", "one.png", "some.png", "rgb.png"])
    for index, expected in enumerate([COLOR, grey(GREY), grey(GREY), COLOR]):
        np.testing.assert_array_equal(source.read(index), expected)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bits_equal_the_same_image_with_8_bits(order: str) -> None:
    made = Image.fromarray(WIDE.astype(order))
    assert made.mode == ("I;16" if order == "<u2" else "I;16B")
    np.testing.assert_array_equal(to_rgb(made), grey(GREY))


def test_16_bits_are_rounded() -> None:
    values = np.array([[0, 128, 129, 65406, 65407, 65535]], dtype=np.uint16)
    assert np.asarray(to_rgb(Image.fromarray(values)))[0, :, 0].tolist() == [0, 0, 1, 254, 255, 255]


def test_16_bits_in_a_32_bit_image() -> None:
    np.testing.assert_array_equal(to_rgb(Image.fromarray(WIDE.astype(np.int32))), grey(GREY))


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_files(tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    errors._noticed.clear()
    Image.fromarray(WIDE).save(tmp_path / f"a.{suffix}")
    Image.fromarray(GREY).save(tmp_path / f"b.{suffix}")
    Image.fromarray(WIDE // 257).save(tmp_path / f"dark.{suffix}")
    source = ImageFiles(tmp_path, [f"{name}.{suffix}" for name in ("a", "b", "dark")])
    cache = build_image_cache(source, (16, 16), tmp_path)
    np.testing.assert_array_equal(cache.images[0], cache.images[1])
    assert cache.images[2].max() == 1, "the values of one image do not decide how it is scaled"
    assert "note: 16-bit images: their values are divided by 257." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (GREY.astype(np.float32) / 255, "floats from 0.0 to 1.0"),
        (np.full((2, 2), np.nan, dtype=np.float32), "floats from nan to nan"),
        (GREY.astype(np.int32), "32-bit integers from 0 to 255"),
        (GREY.astype(np.int32) * 1000, "32-bit integers from 0 to 255000"),
        (GREY.astype(np.int32) - 1, "32-bit integers from -1 to 254"),
    ],
)
def test_an_unknown_range_is_refused(
    tmp_path: Path, values: np.ndarray, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    errors._noticed.clear()
    Image.fromarray(values).save(tmp_path / "odd.tif")
    Image.fromarray(GREY).save(tmp_path / "good.tif")
    source = ImageFiles(tmp_path, ["good.tif", "odd.tif"])
    with pytest.raises(OSError, match=reason):
        source.read(1)
    with pytest.raises(DataError, match=r"1 of 2 images cannot be decoded: odd\.tif"):
        build_image_cache(source, (8, 8), tmp_path)
    assert f"note: odd.tif cannot be decoded: {reason}; convert" in capsys.readouterr().err
    assert find_bad(source) == ["odd.tif"]
