"""Rendering of images by several processes: Python threads would block each other.

Each process renders every W-th chunk of the images and writes it to its pipe; chunks are read in
turn, so images arrive in order and memory is bounded by two chunks per process. Plain subprocesses
are used because `multiprocessing` would run the caller's script again in each process.
"""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, Queue
from threading import Thread
from typing import IO

from PIL import Image

from harness.core.errors import HarnessError
from harness.data.image_source import ImageSource

#: pixels of an image, None if it cannot be decoded; and their CRC32
Decoded = tuple[bytes | None, int]

CHUNK = 16  # images per turn
#: fewer images are not worth starting processes
MIN_IMAGES = 2048
_START = "import sys; sys.path[:] = {!r}; from harness.data.rendering import serve; serve()"
#: header of each image: status, CRC32, length of the content (pixels, or the pickled error)
_HEADER = struct.Struct("<BII")
_OK, _BAD, _READ_ERROR = range(3)


def cores() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_processes(source: ImageSource) -> bool:
    """Whether processes read a source faster than threads."""
    return source.rendered and len(source) >= MIN_IMAGES and cores() > 1


def resize(image: Image.Image, size: tuple[int, int]) -> Decoded:
    """Pixels of an image resized to (H, W)."""
    pixels = image.resize(size[::-1], Image.Resampling.BICUBIC).tobytes()
    return pixels, zlib.crc32(pixels)


def render(source: ImageSource, size: tuple[int, int]) -> Iterator[Decoded]:
    """Render all images in order, resized to (H, W).

    Raises:
        OSError: an image cannot be read. HarnessError: a process failed.
    """
    count = min(cores(), -(-len(source) // CHUNK))
    job = pickle.dumps((source, size, count))
    workers = [_Worker(number, job) for number in range(count)]
    try:
        for index in range(len(source)):
            yield workers[index // CHUNK % count].next()
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process, and a thread that empties its pipe, whose buffer is small."""

    def __init__(self, number: int, job: bytes) -> None:
        command = [sys.executable, "-c", _START.format(sys.path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._ready: Queue[Decoded | BaseException] = Queue(2 * CHUNK)
        request = struct.pack("<I", number) + job
        self._thread = Thread(target=self._receive_all, args=(request,), daemon=True)
        self._thread.start()

    def _receive_all(self, request: bytes) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            with self._process.stdin as pipe:
                pipe.write(request)
            while True:
                self._ready.put(_receive(self._process.stdout))
        except BrokenPipeError:
            self._ready.put(_process_failed())
        except (OSError, HarnessError) as error:
            self._ready.put(error)

    def next(self) -> Decoded:
        """The next image of this process."""
        result = self._ready.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def stop(self) -> None:
        """Kill the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        while self._thread.is_alive():  # it may be waiting for room in the queue
            with suppress(Empty):
                self._ready.get(timeout=0.05)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _receive(pipe: IO[bytes]) -> Decoded:
    header = pipe.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise _process_failed()
    status, crc, length = _HEADER.unpack(header)
    content = pipe.read(length)
    if len(content) < length:
        raise _process_failed()
    if status == _READ_ERROR:
        raise OSError(*pickle.loads(content))
    return (content, crc) if status == _OK else (None, 0)


def _process_failed() -> HarnessError:
    return HarnessError(
        "A process that renders images has stopped.",
        "Its own error message is above. If memory is short, use fewer cores (taskset).",
    )


# -------------------------------------------------------------------------------- in the processes


def serve() -> None:
    """Render every W-th chunk of the source received on standard input."""
    from harness.core import plugins

    plugins.make_importable(plugins.find())
    (number,) = struct.unpack("<I", sys.stdin.buffer.read(4))
    source, size, count = pickle.load(sys.stdin.buffer)
    for start in range(number * CHUNK, len(source), count * CHUNK):
        for index in range(start, min(start + CHUNK, len(source))):
            status, content, crc = _render_one(source, index, size)
            sys.stdout.buffer.write(_HEADER.pack(status, crc, len(content)) + content)
    sys.stdout.buffer.flush()


def _render_one(source: ImageSource, index: int, size: tuple[int, int]) -> tuple[int, bytes, int]:
    try:
        pixels, crc = resize(source.read(index), size)
    except OSError as error:
        if error.errno is None:
            return _BAD, b"", 0
        return _READ_ERROR, pickle.dumps((error.errno, error.strerror, error.filename)), 0
    assert pixels is not None
    return _OK, pixels, crc
