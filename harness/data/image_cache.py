"""The image cache: every image decoded and resized once, memory-mapped from disk afterwards.

Resizing is the first step of the published pipelines and it is deterministic, so its result can be
kept. Rows equal `image.resize((W, H), Image.Resampling.BICUBIC)` bit for bit.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal
from uuid import uuid4

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from harness.core.errors import DataError, HarnessError
from harness.data import rendering
from harness.data.image_files import modified
from harness.data.image_source import ImageSource

FORMAT = 1  # raise it when the pixels or the files change: older image_caches are then built anew
CHUNK = 16  # images a task: large enough to hide the cost of a task, small enough to spread well
CHECKED = 256  # rows compared with their checksums when an image cache is opened
STALE = 24 * 3600  # seconds after which a temporary file is taken for a killed run's

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImageCache:
    """Decoded images.

    Attributes:
        images: (K, H, W, 3) uint8, RGB, read-only, memory-mapped.
        kept: (K,) int64, the index in its source of each row; 0 … K−1 if nothing was left out.
        bad: names of the images that could not be decoded and were left out.
    """

    images: np.ndarray
    kept: np.ndarray
    bad: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def tensor(self, device: torch.device | str, pinned: bool = False) -> Tensor:
        """A copy (K, H, W, 3) uint8 on a device, moved in pieces of at most 1,024 images.

        pinned: in main memory that GPUs copy from by themselves.
        """
        out = torch.empty(self.images.shape, dtype=torch.uint8, device=device, pin_memory=pinned)
        for start in range(0, len(self), 1024):
            piece = np.array(self.images[start : start + 1024])  # torch takes no read-only memory
            out[start : start + 1024] = torch.from_numpy(piece)
        return out


def build_image_cache(
    source: ImageSource,
    size: tuple[int, int],
    cache: Path,
    *,
    on_bad_image: Literal["error", "skip"] = "error",
    progress: Progress | None = None,
) -> ImageCache:
    """The image cache of a source at one size: opened if the cache has it, built otherwise.

    Two processes may build the same image_cache at once: each writes a file of its own, the last rename
    wins, and both files are equal. A damaged image_cache is built anew.

    Args:
        source: the images.
        size: (H, W) in pixels.
        cache: folder of image_caches; made if it is missing. An image cache takes N·H·W·3 bytes.
        on_bad_image: "error" refuses a source with images that cannot be decoded; "skip" leaves
            them out. Images that the system fails to read (no permission, a network disk that is
            gone) are an error in both cases.
        progress: called as (images done, images in all) while the image cache is built.

    Raises:
        DataError: bad images, or no images.
        HarnessError: the cache cannot be written or has not enough free space.
    """
    if not len(source):
        raise DataError("The data set has a part without images.")
    height, width = size
    try:
        key = f"{source.fingerprint()}/{modified(source)}/{height}x{width}/{FORMAT}"
    except OSError as error:
        raise _unreadable(error) from error
    name = f"{hashlib.blake2b(key.encode(), digest_size=12).hexdigest()}_{height}x{width}"
    array, sidecar = Path(cache) / f"{name}.npy", Path(cache) / f"{name}.json"

    image_cache = _open(array, sidecar)
    if image_cache is None:
        _build(source, size, array, sidecar, on_bad_image, progress)
        image_cache = _open(array, sidecar)
        if image_cache is None:
            raise HarnessError(
                f"The image image_cache {array} does not read back as it was written",
                "Check that disk, or choose another folder with data.cache_dir=",
            )
    if image_cache.bad and on_bad_image == "error":
        raise _bad_images(image_cache.bad, len(source))
    return image_cache


def find_bad(source: ImageSource, progress: Progress | None = None) -> list[str]:
    """Names of the images that cannot be decoded; nothing is kept of the others.

    Raises:
        DataError: the system cannot read an image.
    """
    bad = []
    try:
        for done, (pixels, _) in enumerate(_decoded(source, (8, 8))):
            if pixels is None:
                bad.append(source.name(done))
            if progress is not None and ((done + 1) % CHUNK == 0 or done + 1 == len(source)):
                progress(done + 1, len(source))
    except _ReadError as error:
        raise _unreadable(error.__cause__) from error
    return bad


# ----------------------------------------------------------------------------------------- opening


def _open(array: Path, sidecar: Path) -> ImageCache | None:
    """The image cache if it is there and whole, else None."""
    try:
        meta: dict[str, Any] = json.loads(sidecar.read_text(encoding="utf-8"))
        images = np.load(array, mmap_mode="r", allow_pickle=False)
        if list(images.shape) != meta["shape"] or images.dtype != np.uint8:
            return None
        crcs = meta["crc32"]
        # All rows would mean to read the whole file; a spread of them finds what happens to files.
        for row in np.unique(np.linspace(0, len(images) - 1, CHECKED).astype(int)):
            if zlib.crc32(images[row]) != crcs[row]:
                return None
        return ImageCache(images, np.asarray(meta["kept"], dtype=np.int64), tuple(meta["bad"]))
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError):
        return None


# ---------------------------------------------------------------------------------------- building


def _build(
    source: ImageSource,
    size: tuple[int, int],
    array: Path,
    sidecar: Path,
    on_bad_image: str,
    progress: Progress | None,
) -> None:
    """Decode all images and write both files, the array last: it is there only when all is."""
    cache = array.parent
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        with _temporary(array) as temporary, temporary.open("wb") as file:
            _need(cache, len(source) * size[0] * size[1] * 3)
            meta = _write(source, size, file, on_bad_image, progress)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name on an empty file
            with _temporary(sidecar) as note:
                note.write_text(json.dumps(meta), encoding="utf-8")
                note.replace(sidecar)
            temporary.replace(array)
    except _ReadError as error:
        raise _unreadable(error.__cause__) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HarnessError(
                f"The disk of the cache folder {cache} became full while images were decoded",
                "Free some space there, or choose another folder with data.cache_dir=",
            ) from error
        raise HarnessError(
            f"The cache folder {cache} cannot be written: {error.strerror or error}",
            "Choose another folder with data.cache_dir=",
        ) from error


def _write(
    source: ImageSource,
    size: tuple[int, int],
    file: BinaryIO,
    on_bad_image: str,
    progress: Progress | None,
) -> dict[str, Any]:
    """Write the array as .npy and return what the sidecar holds.

    Written with plain writes, not through a memory map: a full disk is then an OSError and not a
    bus error that kills the process.
    """
    total = len(source)
    _write_header(file, (total, *size, 3))
    start = file.tell()
    kept: list[int] = []
    crcs: list[int] = []
    bad: list[str] = []
    for done, (pixels, crc) in enumerate(_decoded(source, size)):
        if pixels is None:
            bad.append(source.name(done))
        else:
            kept.append(done)
            crcs.append(crc)
            if not bad or on_bad_image == "skip":  # else only the list of bad ones is wanted
                file.write(pixels)
        if progress is not None and ((done + 1) % CHUNK == 0 or done + 1 == total):
            progress(done + 1, total)
    if bad and (on_bad_image == "error" or not kept):
        raise _bad_images(bad, total, skippable=bool(kept))
    file.seek(0)
    _write_header(file, (len(kept), *size, 3))  # .npy headers are padded: the length stays
    if file.tell() != start:
        raise AssertionError("the .npy header changed its length")
    return {"shape": [len(kept), *size, 3], "kept": kept, "bad": bad, "crc32": crcs}


def _decoded(source: ImageSource, size: tuple[int, int]) -> Iterator[tuple[bytes | None, int]]:
    """(pixels or None if bad, checksum) of each image in order, decoded by all cores.

    Threads do, as Pillow decodes and resizes without the interpreter lock. Memory is bounded by
    the tasks in flight, two a core. Images that are drawn instead take processes.
    """
    if rendering.worth_it(source):
        try:
            yield from rendering.read(source, size)
        except OSError as error:
            raise _ReadError from error
        return
    height, width = size

    def task(start: int) -> list[tuple[bytes | None, int]]:
        return [one(index) for index in range(start, min(start + CHUNK, len(source)))]

    def one(index: int) -> tuple[bytes | None, int]:
        try:
            image = source.read(index)
        except OSError as error:
            if error.errno is None:  # the content, not the system
                return None, 0
            raise _ReadError from error
        pixels = image.resize((width, height), Image.Resampling.BICUBIC).tobytes()
        return pixels, zlib.crc32(pixels)

    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(workers) as pool:
        tasks: deque[Future[list[tuple[bytes | None, int]]]] = deque()
        try:
            for start in range(0, len(source), CHUNK):
                tasks.append(pool.submit(task, start))
                if len(tasks) > 2 * (workers or 1):
                    yield from tasks.popleft().result()
            while tasks:
                yield from tasks.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


# -------------------------------------------------------------------------------- files and errors


class _ReadError(Exception):
    """The system could not read an image; kept apart from errors of writing the cache."""


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` for writing; what is left there is removed in the end."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{uuid4().hex[:8]}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sweep(cache: Path) -> None:
    """Remove temporary files that a killed run left a day ago."""
    for path in cache.glob("*.tmp"):
        with contextlib.suppress(OSError):  # someone else's, or just renamed
            if path.stat().st_mtime < time.time() - STALE:
                path.unlink()


def _need(cache: Path, size: int) -> None:
    """Refuse to begin what the disk cannot hold."""
    free = shutil.disk_usage(cache).free
    if free < size:
        raise HarnessError(
            f"The cache folder {cache} has {free / 1e9:.1f} GB free; the decoded images take "
            f"{size / 1e9:.1f} GB",
            "Free some space there, or choose another folder with data.cache_dir=",
        )


def _unreadable(error: BaseException | None) -> DataError:
    return DataError(
        f"An image cannot be read from its disk: {error}",
        "Check the disk and the permissions of the data set's folder.",
    )


def _bad_images(bad: list[str] | tuple[str, ...], total: int, skippable: bool = True) -> DataError:
    shown = ", ".join(bad[:3]) + (", …" if len(bad) > 3 else "")
    return DataError(
        f"{len(bad)} of {total} images cannot be decoded: {shown}",
        "Replace them, or leave them out with dataset.on_bad_image=skip"
        if skippable
        else "Unpack the data set again.",
    )
