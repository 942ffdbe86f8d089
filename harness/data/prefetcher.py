"""Data ahead of the network: a thread makes the next batches, on a GPU on a stream of its own.

Nothing here changes what a batch holds: batches are made one after the other in their order, from
random numbers of their own generators, by a thread in place of the loop that uses them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

Item = TypeVar("Item")
Self = TypeVar("Self", bound="Prefetcher")
Images = np.ndarray | Tensor

#: batches that wait, besides the one in the making and the one in use
AHEAD = 1
_POLL = 0.05  # seconds after which a waiting thread looks whether it is still wanted


class Prefetcher(Generic[Item]):
    """What `items` yields, made ahead by a thread: `with Prefetcher(items, device) as feed: …`.

    On a GPU the thread works on its own stream; the consumer's stream waits for each item, never
    the host. What the thread raises is raised from the loop. Leaving the block ends the thread.

    Attributes:
        waited: seconds in which the consumer had nothing to work on, known when the block has
            ended. On a GPU these are the device's own, between the end of one step's kernels and
            the moment when the next step's data are there.
    """

    def __init__(self, items: Iterable[Item], device: torch.device, ahead: int = AHEAD) -> None:
        self.items, self.device = items, device
        self.waited = 0.0
        self._ready: queue.Queue[tuple[str, Any, Any]] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="harness feed", daemon=True)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._marks: list[tuple[Any, Any]] = []

    def __enter__(self: Self) -> Self:
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._stream is not None:
            self._stream.synchronize()  # what it still reads may be freed now
            torch.cuda.current_stream(self.device).synchronize()
            self.waited = sum(a.elapsed_time(b) for a, b in self._marks) / 1000

    def __iter__(self) -> Iterator[Item]:
        while True:
            started, before = time.perf_counter(), self._mark()
            kind, item, made = self._ready.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            if self._stream is None:
                self.waited += time.perf_counter() - started
            else:
                current = torch.cuda.current_stream(self.device)
                current.wait_event(made)
                for tensor in _tensors(item):
                    if tensor.is_cuda:  # made on one stream, used on another
                        tensor.record_stream(current)
                self._marks.append((before, self._mark()))
            yield item

    def _mark(self) -> Any:
        """A time stamp on the consumer's stream."""
        if self._stream is None:
            return None
        mark = torch.cuda.Event(enable_timing=True)
        mark.record(torch.cuda.current_stream(self.device))
        return mark

    def _work(self) -> None:
        """The thread's."""
        try:
            with torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext():
                for item in self.items:
                    made = self._stream.record_event() if self._stream else None
                    if not self._hand_over("item", item, made):
                        return
        except BaseException as error:
            self._hand_over("error", error)
        else:
            self._hand_over("end")
        finally:
            if hasattr(self.items, "close"):
                self.items.close()  # of a generator

    def _hand_over(self, kind: str, item: Any = None, made: Any = None) -> bool:
        """Wait for room; False if nobody wants it any more."""
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put((kind, item, made), timeout=_POLL)
                return True
        return False


class HostToDeviceCopy:
    """Brings images of an image cache to where batches are made of them.

    An image cache on the device, and any image_cache on a CPU, is used where it is. Of an image cache in main memory a GPU
    gets the rows asked for: they are gathered into one of two pinned buffers, and copied from there
    while the other is filled.

    Args:
        images: (N, H, W, 3) uint8. device: of the batches.
        gathers: whether rows are gathered; by default as said.
    """

    def __init__(self, images: Images, device: torch.device, gathers: bool | None = None) -> None:
        self.images, self.device = images, device
        here = isinstance(images, np.ndarray) or images.device.type == "cpu"
        self.gathers = (device.type == "cuda" and here) if gathers is None else gathers
        self._buffers: list[Tensor | None] = [None, None]
        self._sent: list[Any] = [None, None]
        self._turn = 0

    def rows(self, indices: Tensor) -> tuple[Images, Tensor]:
        """Images, and which of their rows (B,) are those that were asked for."""
        if not self.gathers:
            return self.images, indices
        buffer = self._buffer(len(indices))
        if isinstance(self.images, np.ndarray):
            # 'clip' writes straight into the buffer; indices come from a sampler and are in range
            np.take(self.images, indices.numpy(), axis=0, out=buffer.numpy(), mode="clip")
        else:
            torch.index_select(self.images, 0, indices, out=buffer)
        return self._send(buffer), torch.arange(len(indices))

    def span(self, start: int, stop: int) -> Images:
        """Images `start` … `stop` − 1 in a row."""
        piece = self.images[start:stop]
        if not self.gathers:
            return piece
        if isinstance(piece, Tensor) and piece.is_pinned():
            return piece.to(self.device, non_blocking=True)
        buffer = self._buffer(len(piece))
        np.copyto(buffer.numpy(), piece if isinstance(piece, np.ndarray) else piece.numpy())
        return self._send(buffer)

    def _buffer(self, count: int) -> Tensor:
        """The next buffer, (count, H, W, 3), once its last copy has left."""
        self._turn = 1 - self._turn
        if self._sent[self._turn] is not None:
            self._sent[self._turn].synchronize()
        buffer = self._buffers[self._turn]
        if buffer is None or len(buffer) < count:
            shape = (count, *self.images.shape[1:])
            pinned = self.device.type == "cuda"
            buffer = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
            self._buffers[self._turn] = buffer
        return buffer[:count]

    def _send(self, buffer: Tensor) -> Tensor:
        out = torch.empty(buffer.shape, dtype=buffer.dtype, device=self.device)
        out.copy_(buffer, non_blocking=True)
        if self.device.type == "cuda":
            self._sent[self._turn] = torch.cuda.current_stream(self.device).record_event()
        return out


def _tensors(item: Any) -> Iterator[Tensor]:
    """All tensors of a batch, however it is built."""
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, tuple | list):
        for each in item:
            yield from _tensors(each)
    elif dataclasses.is_dataclass(item):
        for field in dataclasses.fields(item):
            yield from _tensors(getattr(item, field.name))
