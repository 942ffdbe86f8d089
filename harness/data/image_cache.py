"""The image cache: each image decoded and resized once, then memory-mapped from disk.

Resizing is the first, deterministic step of the published pipelines, so its result can be stored.
Rows equal `image.resize((W, H), Image.Resampling.BICUBIC)` bit for bit, or that of another filter
if the backbone wants one.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from harness.core.distributed.processes import cores
from harness.core.errors import DataError, HarnessError
from harness.core.files import make_folder, write_atomically, write_text
from harness.core.hashing import hexdigest
from harness.core.preprocessing import IMAGENET
from harness.data.decoding import Progress, ReadError, decode
from harness.data.image_source import ImageSource

FORMAT = 2  # raise it when pixels or files change: older image caches are then rebuilt
BLOCK = 8 * 2**20  # bytes that are read at once when checksums are verified

#: image caches that this process has verified: path, inode, size and modification time
_verified: set[tuple[Any, ...]] = set()


@dataclass(frozen=True)
class ImageCache:
    """Decoded images.

    images: (K, H, W, 3) uint8, RGB, read-only, memory-mapped.
    kept: (K,) int64, the index in its source of each row; 0 … K−1 unless images were skipped.
    bad: names of the skipped images, which cannot be decoded.
    """

    images: np.ndarray
    kept: np.ndarray
    bad: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def tensor(self, device: torch.device | str, pinned: bool = False) -> Tensor:
        """A copy (K, H, W, 3) uint8 on a device, or in pinned main memory."""
        out = torch.empty(self.images.shape, dtype=torch.uint8, device=device, pin_memory=pinned)
        for start in range(0, len(self), 1024):
            rows = np.array(self.images[start : start + 1024])  # torch rejects read-only memory
            out[start : start + 1024] = torch.from_numpy(rows)
        return out


def build_image_cache(
    source: ImageSource, size: tuple[int, int], cache: Path, *,
    on_bad_image: Literal["error", "skip"] = "error", progress: Progress | None = None,
    interpolation: str = IMAGENET.interpolation,
) -> ImageCache:  # fmt: skip
    """Open the image cache of a source at one size (H, W), building it first if necessary.

    Of several processes that need the same image cache, one builds it and the others wait. The
    checksum of every row is verified once per process; a damaged image cache is rebuilt.

    Args:
        cache: folder of image caches, made if missing. An image cache takes N·H·W·3 bytes.
        on_bad_image: "error" refuses sources with images that cannot be decoded; "skip" omits them.
            Failures to read (no permission, lost network disk) are always errors.
        progress: called with (images done, total) while building.
        interpolation: Pillow's filter: see `Preprocessing`.

    Raises:
        DataError: there are bad images, or no images.
        HarnessError: the cache folder is not writable or lacks free space.
    """
    if not len(source):
        raise DataError("A split of the data set has no images.")
    try:
        array, sidecar = _files(source, size, cache, interpolation)
    except OSError as error:
        raise _read_failed(error) from error
    image_cache = _open(array, sidecar)
    if image_cache is None:
        with _only_builder(array):
            image_cache = _open(array, sidecar)  # another process may have built it meanwhile
            if image_cache is None:
                _build(source, size, array, sidecar, on_bad_image, progress, interpolation)
                image_cache = _open(array, sidecar)
        if image_cache is None:
            hint = "Check the disk, or choose another folder with data.cache_dir="
            raise HarnessError(f"The image cache {array} cannot be read back as written", hint)
    if image_cache.bad and on_bad_image == "error":
        raise _bad_images(image_cache.bad, len(source))
    return image_cache


def _files(
    source: ImageSource, size: tuple[int, int], cache: Path, interpolation: str
) -> tuple[Path, Path]:
    """The image cache's array (.npy) and the file that describes it (.json)."""
    height, width = size
    key = f"{source.fingerprint()}/{source.modified}/{height}x{width}/{FORMAT}"
    if interpolation != IMAGENET.interpolation:
        key += f"/{interpolation}"
    name = f"{hexdigest([key.encode()], size=12)}_{height}x{width}"
    return Path(cache) / f"{name}.npy", Path(cache) / f"{name}.json"


def bytes_to_build(
    source: ImageSource, size: tuple[int, int], cache: Path, interpolation: str
) -> int:
    """Disk space that the image cache of a source at (H, W) will take; 0 if it is there already.

    Raises OSError if a file of the source cannot be found.
    """
    there = all(path.is_file() for path in _files(source, size, cache, interpolation))
    return 0 if there else len(source) * size[0] * size[1] * 3


def find_bad(source: ImageSource, progress: Progress | None = None) -> list[str]:
    """Names of the images that cannot be decoded; raises DataError if one cannot be read."""
    try:
        decoded = decode(source, (8, 8), progress)
        return [source.name(index) for index, (pixels, _) in enumerate(decoded) if pixels is None]
    except ReadError as error:
        raise _read_failed(error.__cause__) from error


def _open(array: Path, sidecar: Path) -> ImageCache | None:
    """The image cache if it is there and intact, else None."""
    try:
        meta: dict[str, Any] = json.loads(sidecar.read_text(encoding="utf-8"))
        if meta.pop("digest") != _digest(meta):
            return None
        images = np.load(array, mmap_mode="r", allow_pickle=False)
        if list(images.shape) != meta["shape"] or images.dtype != np.uint8:
            return None
        if not _intact(array, images.offset, meta["crc32"], images[0].nbytes):
            return None
        return ImageCache(images, np.asarray(meta["kept"], dtype=np.int64), tuple(meta["bad"]))
    except (OSError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None


def _digest(meta: dict[str, Any]) -> str:
    return hexdigest([json.dumps(meta, sort_keys=True).encode()])


def _intact(array: Path, offset: int, crcs: list[int], row: int) -> bool:
    """Whether every row of `row` bytes has its checksum.

    Reads the file instead of the memory map: touched pages of a map count as the process's memory.
    """
    stat = array.stat()
    identity = (array.absolute(), stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if identity in _verified:
        return True
    rows = max(1, BLOCK // row)

    def check(start: int) -> bool:
        expected = crcs[start : start + rows]
        with array.open("rb", buffering=0) as file:
            file.seek(offset + start * row)
            block = memoryview(file.read(len(expected) * row))
        return all(zlib.crc32(block[i * row : (i + 1) * row]) == c for i, c in enumerate(expected))

    with ThreadPoolExecutor(cores()) as pool:  # zlib computes without the GIL
        intact = all(pool.map(check, range(0, len(crcs), rows)))
    if intact:
        _verified.add(identity)
    return intact


def _lock_of(folder: Path, name: str) -> FileLock:
    """The lock of the builder of an image cache; the system releases it when the process dies."""
    return FileLock(folder / f"{name}.lock")


@contextlib.contextmanager
def _only_builder(array: Path) -> Iterator[None]:
    """Wait for another process that builds this image cache, then remove what killed ones left."""
    make_folder(array.parent)
    lock = _lock_of(array.parent, array.stem)
    try:
        lock.acquire(poll_interval=0.2)
    except (OSError, NotImplementedError):  # no locks here: equal files, and the last rename wins
        yield
        return
    try:
        _remove_leftovers(array.parent, array.stem)
        yield
    finally:
        lock.release()


def _remove_leftovers(folder: Path, locked: str) -> None:
    """Remove temporary files of killed builders: those whose lock is free, or held by us."""
    for path in folder.glob("*.tmp"):
        name = path.name.split(".")[0]
        with contextlib.suppress(OSError, NotImplementedError, Timeout):
            if name == locked:
                path.unlink()
            else:
                with _lock_of(folder, name).acquire(timeout=0):
                    path.unlink()


def _build(
    source: ImageSource, size: tuple[int, int], array: Path, sidecar: Path, on_bad_image: str,
    progress: Progress | None, interpolation: str,
) -> None:  # fmt: skip
    """Decode all images and write both files; the array is renamed last, when all is complete."""

    def write(file: IO[bytes]) -> None:
        _check_space(array.parent, len(source) * size[0] * size[1] * 3)
        meta = _write(source, size, file, on_bad_image, progress, interpolation)
        write_text(sidecar, json.dumps(meta | {"digest": _digest(meta)}))

    try:
        write_atomically(array, write)
    except ReadError as error:
        raise _read_failed(error.__cause__) from error


def _write(
    source: ImageSource, size: tuple[int, int], file: IO[bytes], on_bad_image: str,
    progress: Progress | None, interpolation: str,
) -> dict[str, Any]:  # fmt: skip
    """Write the array as .npy; returns the content of the sidecar.

    Uses plain writes instead of a memory map, so that a full disk raises OSError; with a map it
    would kill the process with a bus error.
    """
    total = len(source)
    _write_header(file, (total, *size, 3))
    start = file.tell()
    kept: list[int] = []
    crcs: list[int] = []
    bad: list[str] = []
    for index, (pixels, crc) in enumerate(decode(source, size, progress, interpolation)):
        if pixels is None:
            bad.append(source.name(index))
            continue
        kept.append(index)
        crcs.append(crc)
        if not bad or on_bad_image == "skip":  # else only the list of bad images is needed
            file.write(pixels)
    if bad and (on_bad_image == "error" or not kept):
        raise _bad_images(bad, total, skippable=bool(kept))
    file.seek(0)
    _write_header(file, (len(kept), *size, 3))  # .npy headers are padded to the same length
    assert file.tell() == start
    return {"shape": [len(kept), *size, 3], "kept": kept, "bad": bad, "crc32": crcs}


def _write_header(file: IO[bytes], shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _check_space(cache: Path, size: int) -> None:
    free = shutil.disk_usage(cache).free
    if free < size:
        raise HarnessError(
            f"The cache folder {cache} has {free / 1e9:.1f} GB free; the decoded images need "
            f"{size / 1e9:.1f} GB",
            "Free some space there, or choose another folder with data.cache_dir=",
        )


def _read_failed(error: BaseException | None) -> DataError:
    return DataError(
        f"An image cannot be read from disk: {error}",
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
