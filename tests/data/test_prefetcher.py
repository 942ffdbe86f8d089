"""Batches made ahead: the same ones, in order, and nothing is left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from harness.core.seeds import generator
from harness.data.augment import Augment
from harness.data.prefetcher import ImageReader, Prefetcher

CPU = torch.device("cpu")


def running() -> int:
    return sum(thread.name == "harness prefetch" for thread in threading.enumerate())


def test_all_items_in_order() -> None:
    with Prefetcher(range(100), CPU) as feed:
        assert list(feed) == list(range(100))
    assert running() == 0


def test_made_ahead_and_not_further() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            yield number

    with Prefetcher(items(), CPU) as feed:
        iterator = iter(feed)
        assert next(iterator) == 0
        deadline = time.monotonic() + 5
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert len(made) == 3, "one in use, one waiting, one in the making"
    assert len(made) <= 4


def test_an_error_is_the_loops() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise RuntimeError("no such batch")

    with pytest.raises(RuntimeError, match="no such batch"), Prefetcher(items(), CPU) as feed:
        assert list(feed)
    assert running() == 0


def test_leaving_the_loop_ends_the_thread_and_the_generator() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    with pytest.raises(KeyboardInterrupt), Prefetcher(endless(), CPU) as feed:
        for _ in feed:
            raise KeyboardInterrupt
    assert closed.is_set() and running() == 0


def test_waiting_is_counted() -> None:
    def slow() -> Iterator[int]:
        for number in range(3):
            time.sleep(0.05)
            yield number

    with Prefetcher(slow(), CPU) as feed:
        assert list(feed) == [0, 1, 2]
    assert 0.12 < feed.waited < 5
    with Prefetcher(range(3), CPU) as feed:
        for _ in feed:
            time.sleep(0.05)
    assert feed.waited < 0.05


@pytest.mark.parametrize("kind", ["mapped", "memory"])
def test_gathered_rows_equal_the_image_cache(kind: str) -> None:
    """Two buffers in turns: what was sent is not overwritten by what comes after it."""
    image_cache = np.random.default_rng(0).integers(0, 256, (40, 12, 8, 3), dtype=np.uint8)
    source = image_cache if kind == "mapped" else torch.from_numpy(image_cache.copy())
    plain, gathering = ImageReader(source, CPU), ImageReader(source, CPU, gathers=True)
    augment = Augment((12, 8), pad=2)
    parameters = augment.draw(5, generator(0))
    asked = [torch.tensor([first, 3, 39, 0, 3]) for first in range(5)]
    sent = [gathering.rows(indices) for indices in asked]
    for indices, (images, rows) in zip(asked, sent, strict=True):
        assert rows.tolist() == [0, 1, 2, 3, 4]
        expected = augment.apply(image_cache, parameters, indices=indices)
        assert torch.equal(
            augment.apply(plain.rows(indices)[0], parameters, indices=indices), expected
        )
        assert torch.equal(augment.apply(images, parameters, indices=rows), expected)
    for start, stop in ((0, 16), (16, 32), (32, 48)):
        span = gathering.span(start, stop)
        assert isinstance(span, torch.Tensor)
        np.testing.assert_array_equal(span.numpy(), image_cache[start:stop])
    assert gathering.rows(torch.arange(30))[0].shape[0] == 30, "buffers grow"
