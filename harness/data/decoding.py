"""Decoding of images on all cores, in order: in threads, or in processes for rendered images.

Pillow decodes and resizes without the GIL, so threads suffice for files. Images that Python code
renders need processes.
"""

from __future__ import annotations

import functools
import pickle
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from PIL import Image

from harness.core.distributed.processes import cores
from harness.core.errors import HarnessError, first_line, say_once
from harness.core.preprocessing import IMAGENET
from harness.data.image_source import ImageSource

#: pixels and their CRC32; (None, 0) for an image that cannot be decoded
Decoded = tuple[bytes | None, int]
Progress = Callable[[int, int], None]

#: images per task: amortizes the cost of a task, yet spreads well over cores
THREAD_CHUNK, PROCESS_CHUNK = 16, 128
#: fewer images are not worth starting processes
MIN_IMAGES = 2048


class ReadError(Exception):
    """An image cannot be read from disk; its cause is the OSError."""


def use_processes(source: ImageSource) -> bool:
    """Whether processes decode a source faster than threads."""
    return source.rendered and len(source) >= MIN_IMAGES and cores() > 1


def decode(
    source: ImageSource, size: tuple[int, int], progress: Progress | None = None,
    interpolation: str = IMAGENET.interpolation,
) -> Iterator[Decoded]:  # fmt: skip
    """Decode all images in order, resized to (H, W). Memory is bounded by two tasks per core.

    Says why the first of the images that cannot be decoded cannot be.

    Raises ReadError: an image cannot be read from disk. HarnessError: a process failed.
    """
    from joblib import Parallel, delayed

    # joblib warns about unused results whenever an error or Ctrl-C ends the loop
    warnings.filterwarnings("ignore", ".*successfully executed  but not used", UserWarning)
    # of transparent pixels, which `to_rgb` drops
    warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)
    total, done, damaged = len(source), 0, False
    chunk, backend, task = THREAD_CHUNK, "threading", functools.partial(_decode_chunk, source)
    if use_processes(source):
        task = functools.partial(_decode_pickled, pickle.dumps(source))
        chunk, backend = PROCESS_CHUNK, "loky"
    parallel = Parallel(cores(), backend=backend, batch_size=1, return_as="generator")
    starts = range(0, total, chunk)
    how = size, interpolation
    results = parallel(delayed(task)(start, min(start + chunk, total), *how) for start in starts)
    try:
        for result in results:
            for index, decoded in enumerate(result, start=done):
                if not isinstance(decoded, OSError):
                    yield decoded
                    continue
                if decoded.errno is not None:  # the disk failed; otherwise the content is damaged
                    raise ReadError from decoded
                if not damaged:
                    say_once(f"{source.name(index)} cannot be decoded: {first_line(decoded)}.")
                damaged = True
                yield None, 0
            done += len(result)
            if progress is not None:
                progress(done, total)
    except BrokenProcessPool as error:
        raise HarnessError(
            "A process that renders images has stopped.",
            "Its own error message is above. If memory is short, use fewer cores (taskset).",
        ) from error


def _decode_chunk(
    source: ImageSource, start: int, stop: int, size: tuple[int, int], interpolation: str
) -> list[Decoded | OSError]:
    decoded: list[Decoded | OSError] = []
    resampling = Image.Resampling[interpolation.upper()]
    for index in range(start, stop):
        try:
            image = source.read(index)
        except OSError as error:
            decoded.append(error)
            continue
        pixels = image.resize(size[::-1], resampling).tobytes()
        decoded.append((pixels, zlib.crc32(pixels)))
    return decoded


def _decode_pickled(content: bytes, *task: Any) -> list[Decoded | OSError]:
    """`_decode_chunk` in another process."""
    return _decode_chunk(_unpickle(content), *task)


@functools.lru_cache(maxsize=1)
def _unpickle(content: bytes) -> ImageSource:
    from harness.core import plugins

    plugins.make_importable(plugins.find())
    source: ImageSource = pickle.loads(content)
    return source
