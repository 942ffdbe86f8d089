"""The image cache equals Pillow bit for bit, and survives what happens to files."""

from __future__ import annotations

import errno
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image, ImageFile

from harness.core.errors import DataError, HarnessError
from harness.data import image_cache as cache_module
from harness.data.image_cache import build_image_cache
from harness.data.image_files import ImageFiles
from harness.data.image_source import Subset

SIZE = (24, 12)


def picture(seed: int, mode: str = "RGB", size: tuple[int, int] = (31, 57)) -> Image.Image:
    """Noise with some structure, (W, H) as Pillow has it."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (9, 5, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BILINEAR)
    return image.quantize(32) if mode == "P" else image.convert(mode)


def files(folder: Path, count: int) -> ImageFiles:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:03}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        picture(i).save(folder / name)
    return ImageFiles(folder, names)


def remains(folder: Path) -> list[Path]:
    """What is in a cache folder, without locks."""
    return [path for path in folder.iterdir() if path.suffix != ".lock"]


def flipped(content: bytes, position: int) -> bytes:
    """The same bytes with one bit flipped."""
    return content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :]


def spoil(source: ImageFiles, *indices: int) -> None:
    """Cut off the last tenth."""
    for index in indices:
        path = source.root / source.names[index]
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 9 // 10])


@pytest.fixture
def source(tmp_path: Path) -> ImageFiles:
    return files(tmp_path / "images", 40)


@pytest.mark.parametrize("size", [(24, 12), (57, 31), (128, 64), (7, 50)])
def test_equals_pillow(tmp_path: Path, size: tuple[int, int]) -> None:
    cases = [("RGB", "jpg"), ("L", "jpg"), ("CMYK", "jpg"), ("RGBA", "png"), ("P", "png")]
    cases += [("LA", "png"), ("1", "png"), ("P", "gif"), ("RGB", "bmp")]
    names = [f"{i}_{mode}.{suffix}" for i, (mode, suffix) in enumerate(cases)]
    for i, (mode, _) in enumerate(cases):
        picture(i, mode).save(tmp_path / names[i])
    image_cache = build_image_cache(ImageFiles(tmp_path, names), size, tmp_path / "cache")
    for name, row in zip(names, image_cache.images, strict=True):
        with Image.open(tmp_path / name) as image:
            resized = image.convert("RGB").resize(size[::-1], Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(row, np.asarray(resized), err_msg=name)


def test_rows_are_in_order_and_read_only(source: ImageFiles, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    image_cache = build_image_cache(
        source, SIZE, tmp_path / "c", progress=lambda *call: calls.append(call)
    )
    for index in range(len(source)):
        expected = source.read(index).resize(SIZE[::-1], Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(image_cache.images[index], np.asarray(expected))
    assert image_cache.kept.tolist() == list(range(40)) and image_cache.bad == ()
    assert calls[-1] == (40, 40) and calls == sorted(calls)
    with pytest.raises(ValueError, match="read-only"):
        image_cache.images[0] = 0
    np.testing.assert_array_equal(image_cache.tensor("cpu").numpy(), image_cache.images)


def test_is_built_once(source: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_image_cache(source, SIZE, tmp_path / "c")
    monkeypatch.setattr(ImageFiles, "read", lambda *_: pytest.fail("decoded again"))
    again = build_image_cache(ImageFiles(source.root, source.names), SIZE, tmp_path / "c")
    assert len(again) == 40


def test_key_distinguishes_sources(source: ImageFiles, tmp_path: Path) -> None:
    backwards = ImageFiles(source.root, source.names[::-1])
    some = Subset(source, np.array([3, 1]))
    first = build_image_cache(source, SIZE, tmp_path).images
    np.testing.assert_array_equal(build_image_cache(backwards, SIZE, tmp_path).images, first[::-1])
    np.testing.assert_array_equal(build_image_cache(some, SIZE, tmp_path).images, first[[3, 1]])
    assert build_image_cache(source, (12, 12), tmp_path).images.shape == (40, 12, 12, 3)


def test_fingerprint_is_the_same_elsewhere(source: ImageFiles, tmp_path: Path) -> None:
    copy = shutil.copytree(source.root, tmp_path / "copy", copy_function=shutil.copyfile)
    assert ImageFiles(copy, source.names).fingerprint() == source.fingerprint()


def test_replaced_file_is_seen(source: ImageFiles, tmp_path: Path) -> None:
    build_image_cache(source, SIZE, tmp_path / "c")
    path = source.root / source.names[5]
    size, mtime = path.stat().st_size, path.stat().st_mtime
    buffer = BytesIO()
    picture(99).save(buffer, "jpeg", quality=20)
    path.write_bytes(buffer.getvalue().ljust(size, b"\0"))  # as large as the old one
    os.utime(path, (mtime + 5, mtime + 5))
    image_cache = build_image_cache(ImageFiles(source.root, source.names), SIZE, tmp_path / "c")
    expected = source.read(5).resize(SIZE[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(image_cache.images[5], np.asarray(expected))


def test_damaged_cache_is_rebuilt(source: ImageFiles, tmp_path: Path) -> None:
    cache = tmp_path / "c"
    expected = build_image_cache(source, SIZE, cache).images.copy()
    (array,), (sidecar,) = cache.glob("*.npy"), cache.glob("*.json")
    whole, note = array.read_bytes(), sidecar.read_bytes()
    zeros = whole[:-3000] + bytes(3000)
    for content in (whole[:-1], whole[:100], b"", zeros, b"junk" * 500):
        array.write_bytes(content)
        np.testing.assert_array_equal(build_image_cache(source, SIZE, cache).images, expected)
    for content in (b"", note[:50], b"[]", b"{}", b'{"shape": [1], "crc32": []}'):
        sidecar.write_bytes(content)
        np.testing.assert_array_equal(build_image_cache(source, SIZE, cache).images, expected)
    sidecar.unlink()
    np.testing.assert_array_equal(build_image_cache(source, SIZE, cache).images, expected)


def test_concurrent_builds(source: ImageFiles, tmp_path: Path) -> None:
    def build(_: int) -> np.ndarray:
        return build_image_cache(source, SIZE, tmp_path / "c").images

    with ThreadPoolExecutor(6) as pool:
        first, *others = pool.map(build, range(6))
    for other in others:
        np.testing.assert_array_equal(other, first)
    assert sorted(path.suffix for path in remains(tmp_path / "c")) == [".json", ".npy"]


def test_interrupted_build_leaves_nothing(source: ImageFiles, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_image_cache(source, SIZE, tmp_path / "c", progress=interrupt)
    assert not remains(tmp_path / "c")
    assert len(build_image_cache(source, SIZE, tmp_path / "c")) == 40


# -------------------------------------------------------------------------------------- bad images


def test_bad_images_are_an_error(source: ImageFiles, tmp_path: Path) -> None:
    spoil(source, 3, 17, 18, 30)
    with pytest.raises(DataError) as caught:
        build_image_cache(source, SIZE, tmp_path / "c")
    assert "4 of 40 images" in caught.value.cause and "003.jpg, 017.jpg" in caught.value.cause
    assert "dataset.on_bad_image=skip" in caught.value.hint
    assert not remains(tmp_path / "c")


def test_bad_images_are_left_out(source: ImageFiles, tmp_path: Path) -> None:
    whole = build_image_cache(source, SIZE, tmp_path / "whole").images
    spoil(source, 0, 17)
    (source.root / source.names[39]).write_text("no image")
    damaged = ImageFiles(source.root, source.names)
    for _ in range(2):  # built, then opened
        image_cache = build_image_cache(damaged, SIZE, tmp_path / "c", on_bad_image="skip")
        assert image_cache.bad == ("000.jpg", "017.jpg", "039.jpg")
        assert image_cache.kept.tolist() == [i for i in range(40) if i not in (0, 17, 39)]
        np.testing.assert_array_equal(image_cache.images, whole[image_cache.kept])
    with pytest.raises(
        DataError, match="3 of 40"
    ):  # the image cache is there, but not what is asked for
        build_image_cache(damaged, SIZE, tmp_path / "c")


def test_truncated_images_never_pass(source: ImageFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    spoil(source, 2)
    with pytest.raises(OSError, match="truncated"):
        source.read(2)


def test_nothing_but_bad_images(source: ImageFiles, tmp_path: Path) -> None:
    spoil(source, *range(40))
    with pytest.raises(DataError, match="40 of 40"):
        build_image_cache(source, SIZE, tmp_path / "c", on_bad_image="skip")
    with pytest.raises(DataError, match="has no images"):
        build_image_cache(ImageFiles(source.root, []), SIZE, tmp_path / "c")


def test_failing_disk_is_not_skipped(
    source: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: ImageFiles, index: int) -> Image.Image:
        raise OSError(errno.EIO, "Input/output error", self.names[index])

    monkeypatch.setattr(ImageFiles, "read", read)
    with pytest.raises(DataError, match=r"Input/output error: '000\.jpg'"):
        build_image_cache(source, SIZE, tmp_path / "c", on_bad_image="skip")


def test_vanished_file(source: ImageFiles, tmp_path: Path) -> None:
    (source.root / source.names[7]).unlink()
    with pytest.raises(DataError, match=r"No such file .*007\.jpg"):
        build_image_cache(source, SIZE, tmp_path / "c", on_bad_image="skip")


# ------------------------------------------------------------------------------------- bad caches


def test_cache_that_cannot_be_written(source: ImageFiles, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HarnessError, match="cannot be written") as caught:
        build_image_cache(source, SIZE, tmp_path / "file" / "cache")
    assert "data.cache_dir=" in caught.value.hint and str(tmp_path / "file") in caught.value.cause


def test_too_little_space(
    source: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(HarnessError, match="GB free"):
        build_image_cache(source, SIZE, tmp_path / "c")
    assert not remains(tmp_path / "c")


def test_disk_that_becomes_full(
    source: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache_module, "_write", write)
    with pytest.raises(HarnessError, match="is full"):
        build_image_cache(source, SIZE, tmp_path / "c")
    assert not remains(tmp_path / "c")


def test_leftovers_of_killed_builders_are_removed(source: ImageFiles, tmp_path: Path) -> None:
    killed, alive = tmp_path / "x.npy.1-a.tmp", tmp_path / "y.npy.2-b.tmp"
    killed.touch()
    alive.touch()
    with FileLock(tmp_path / "y.lock"):
        build_image_cache(source, SIZE, tmp_path)
        assert not killed.exists() and alive.exists()


def test_any_flipped_bit_is_noticed(
    source: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "BLOCK", 3 * SIZE[0] * SIZE[1] * 3)  # several blocks
    monkeypatch.setattr(cache_module, "_verified", set())
    expected = build_image_cache(source, SIZE, tmp_path / "c").images.copy()
    rng = np.random.default_rng(0)
    for path in remains(tmp_path / "c"):
        whole = path.read_bytes()
        for position in rng.integers(len(whole), size=40):
            path.write_bytes(flipped(whole, int(position)))
            cache_module._verified.clear()
            again = build_image_cache(source, SIZE, tmp_path / "c")
            np.testing.assert_array_equal(again.images, expected, err_msg=f"{path} {position}")
            assert again.kept.tolist() == list(range(40))


def test_is_verified_once_per_process(
    source: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "_verified", set())
    build_image_cache(source, SIZE, tmp_path)
    monkeypatch.setattr("zlib.crc32", lambda _: pytest.fail("verified again"))
    build_image_cache(source, SIZE, tmp_path)
