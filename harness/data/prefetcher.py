"""Prefetching: a thread prepares the next batches, on a GPU on its own stream.

Batches are the same as without prefetching: they are made one after the other, in order, from their
own random generators.
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

#: queued batches, besides the one being made and the one in use
AHEAD = 1
_POLL = 0.05  # seconds between checks of a waiting thread whether it has to stop


class Prefetcher(Generic[Item]):
    """Iterates over `items` in a thread: `with Prefetcher(items, device) as batches: …`.

    On a GPU the thread uses its own stream; the consumer's stream waits for each item, the host
    does not. Exceptions in the thread are raised from the loop. Leaving the block ends the thread.

    waited: seconds for which the consumer had no data, set when the block ends. On a GPU this
        is device time, from the end of one step's kernels until the next step's data is there.
    waited_first: its part before the first item.
    """

    def __init__(self, items: Iterable[Item], device: torch.device, ahead: int = AHEAD) -> None:
        self.items, self.device = items, device
        self.waited = self.waited_first = 0.0
        self._ready: queue.Queue[tuple[str, Any, Any]] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="harness prefetch", daemon=True)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._waits: list[tuple[Any, Any]] = []

    def __enter__(self: Self) -> Self:
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.device))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._stream is not None:
            self._stream.synchronize()  # after this, the memory it reads may be freed
            torch.cuda.current_stream(self.device).synchronize()
            waits = [before.elapsed_time(after) / 1000 for before, after in self._waits]
            self.waited, self.waited_first = sum(waits), sum(waits[:1])

    def __iter__(self) -> Iterator[Item]:
        first = True
        while True:
            started, before = time.perf_counter(), self._timestamp()
            kind, item, made = self._ready.get()
            if kind == "error":
                raise item
            if kind == "end":
                return
            if self._stream is None:
                self.waited += time.perf_counter() - started
                if first:
                    self.waited_first, first = self.waited, False
            else:
                current = torch.cuda.current_stream(self.device)
                current.wait_event(made)
                for tensor in _tensors(item):
                    if tensor.is_cuda:  # made on one stream, used on another
                        tensor.record_stream(current)
                self._waits.append((before, self._timestamp()))
            yield item

    def _timestamp(self) -> Any:
        """A timing event on the consumer's stream; None without a GPU."""
        if self._stream is None:
            return None
        timer = torch.cuda.Event(enable_timing=True)
        return torch.cuda.current_stream(self.device).record_event(timer)

    def _work(self) -> None:
        """Body of the thread."""
        try:
            with torch.cuda.stream(self._stream) if self._stream else contextlib.nullcontext():
                for item in self.items:
                    made = self._stream.record_event() if self._stream else None
                    if not self._put("item", item, made):
                        return
        except BaseException as error:
            self._put("error", error)
        else:
            self._put("end")
        finally:
            if hasattr(self.items, "close"):
                self.items.close()  # of a generator

    def _put(self, kind: str, item: Any = None, made: Any = None) -> bool:
        """Wait for room in the queue; False if the consumer has stopped."""
        while not self._stop.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put((kind, item, made), timeout=_POLL)
                return True
        return False


class ImageReader:
    """Provides images (N, H, W, 3) uint8 of an image cache to a device, batch by batch.

    Images that are on the device already, and any images for the CPU, are used in place. Otherwise
    (or if `gathers`) the rows of a batch are gathered into one of two pinned buffers, which is
    copied to the GPU while the other one is filled.
    """

    def __init__(self, images: Images, device: torch.device, gathers: bool | None = None) -> None:
        self.images, self.device = images, device
        in_main_memory = isinstance(images, np.ndarray) or images.device.type == "cpu"
        self.gathers = (device.type == "cuda" and in_main_memory) if gathers is None else gathers
        self._buffers: list[Tensor | None] = [None, None]
        self._sent: list[Any] = [None, None]
        self._current = 0

    def rows(self, indices: Tensor) -> tuple[Images, Tensor]:
        """Images, and the positions (B,) in them of the requested rows."""
        if not self.gathers:
            return self.images, indices
        buffer = self._next_buffer(len(indices))
        if isinstance(self.images, np.ndarray):
            # 'clip' writes straight into the buffer; a sampler's indices are always in range
            np.take(self.images, indices.numpy(), axis=0, out=buffer.numpy(), mode="clip")
        else:
            torch.index_select(self.images, 0, indices, out=buffer)
        return self._send(buffer), torch.arange(len(indices))

    def span(self, start: int, stop: int) -> Images:
        """Images `start` … `stop` − 1."""
        rows = self.images[start:stop]
        if not self.gathers:
            return rows
        if isinstance(rows, Tensor) and rows.is_pinned():
            return rows.to(self.device, non_blocking=True)
        buffer = self._next_buffer(len(rows))
        np.copyto(buffer.numpy(), rows if isinstance(rows, np.ndarray) else rows.numpy())
        return self._send(buffer)

    def _next_buffer(self, count: int) -> Tensor:
        """The other buffer, (count, H, W, 3), once its previous copy is complete."""
        self._current = 1 - self._current
        if self._sent[self._current] is not None:
            self._sent[self._current].synchronize()
        buffer = self._buffers[self._current]
        if buffer is None or len(buffer) < count:
            shape = (count, *self.images.shape[1:])
            pinned = self.device.type == "cuda"
            buffer = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
            self._buffers[self._current] = buffer
        return buffer[:count]

    def _send(self, buffer: Tensor) -> Tensor:
        out = torch.empty(buffer.shape, dtype=buffer.dtype, device=self.device)
        out.copy_(buffer, non_blocking=True)
        if self.device.type == "cuda":
            self._sent[self._current] = torch.cuda.current_stream(self.device).record_event()
        return out


def _tensors(item: Any) -> Iterator[Tensor]:
    """All tensors in a nested batch."""
    if isinstance(item, Tensor):
        yield item
    elif isinstance(item, tuple | list):
        for each in item:
            yield from _tensors(each)
    elif dataclasses.is_dataclass(item):
        for field in dataclasses.fields(item):
            yield from _tensors(getattr(item, field.name))
