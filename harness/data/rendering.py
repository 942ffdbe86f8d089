"""Images that Python itself draws, read by one process a core: threads would wait for each other.

Each process draws every W-th piece of the images and writes it to its pipe; the pieces are taken in
turn. So images come in order, and memory is bounded by two pieces a process. Plain processes rather
than `multiprocessing`, which would run the caller's script once more in each.
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

PIECE = 16  # images a turn
#: fewer images are not worth starting processes for
WORTH = 2048
_START = "import sys; sys.path[:] = {!r}; from harness.data.rendering import serve; serve()"
#: of each image: whether it could be read, CRC32, bytes that follow (pixels, or what went wrong)
_HEAD = struct.Struct("<BII")
_GOOD, _BAD, _UNREAD = range(3)


def cores() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def worth_it(source: ImageSource) -> bool:
    """Whether processes read a source faster than threads."""
    return source.drawn and len(source) >= WORTH and cores() > 1


def read(source: ImageSource, size: tuple[int, int]) -> Iterator[tuple[bytes | None, int]]:
    """(pixels or None if bad, checksum) of each image in order, resized to (H, W).

    Raises:
        OSError: the system cannot read an image. HarnessError: a process failed.
    """
    count = min(cores(), -(-len(source) // PIECE))
    job = pickle.dumps((source, size, count))
    workers = [_Worker(number, job) for number in range(count)]
    try:
        for index in range(len(source)):
            yield workers[index // PIECE % count].next()
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process, and a thread that takes what it has drawn off its pipe, which is small."""

    def __init__(self, number: int, job: bytes) -> None:
        command = [sys.executable, "-c", _START.format(sys.path)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._ready: Queue[tuple[bytes | None, int] | BaseException] = Queue(2 * PIECE)
        self._thread = Thread(target=self._take, args=(struct.pack("<I", number) + job,))
        self._thread.daemon = True
        self._thread.start()

    def _take(self, job: bytes) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            with self._process.stdin as pipe:
                pipe.write(job)
            while True:
                self._ready.put(_received(self._process.stdout))
        except (OSError, HarnessError) as error:
            told = _failed() if isinstance(error, BrokenPipeError) else error
            self._ready.put(told)

    def next(self) -> tuple[bytes | None, int]:
        """Its next image."""
        found = self._ready.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def stop(self) -> None:
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        while self._thread.is_alive():  # it may wait for room
            with suppress(Empty):
                self._ready.get(timeout=0.05)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _received(pipe: IO[bytes]) -> tuple[bytes | None, int]:
    head = pipe.read(_HEAD.size)
    if len(head) < _HEAD.size:
        raise _failed()
    kind, crc, length = _HEAD.unpack(head)
    content = pipe.read(length)
    if len(content) < length:
        raise _failed()
    if kind == _UNREAD:
        raise OSError(*pickle.loads(content))
    return (content, crc) if kind == _GOOD else (None, 0)


def _failed() -> HarnessError:
    return HarnessError(
        "A process that draws images has stopped.",
        "What it said stands above; with too little memory, use fewer cores (taskset).",
    )


# -------------------------------------------------------------------------------- in the processes


def serve() -> None:
    """Draw every W-th piece of the source that comes on standard input."""
    from harness.core import plugins

    plugins.make_importable(plugins.find())
    (number,) = struct.unpack("<I", sys.stdin.buffer.read(4))
    source, size, count = pickle.load(sys.stdin.buffer)
    for start in range(number * PIECE, len(source), count * PIECE):
        for index in range(start, min(start + PIECE, len(source))):
            kind, content = _drawn(source, index, size)
            crc = zlib.crc32(content)
            sys.stdout.buffer.write(_HEAD.pack(kind, crc, len(content)) + content)
    sys.stdout.buffer.flush()


def _drawn(source: ImageSource, index: int, size: tuple[int, int]) -> tuple[int, bytes]:
    try:
        image = source.read(index)
    except OSError as error:
        if error.errno is None:
            return _BAD, b""
        return _UNREAD, pickle.dumps((error.errno, error.strerror, error.filename))
    height, width = size
    return _GOOD, image.resize((width, height), Image.Resampling.BICUBIC).tobytes()
