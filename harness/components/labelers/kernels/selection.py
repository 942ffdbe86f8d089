"""Selection of each image's nearest images from tiles of products."""

from __future__ import annotations

from typing import Any

import numpy as np

from harness.core.kernels import loop

#: entries compared at once, to skip groups in which none is near enough
_GROUP = 32


@loop
def _push(keys: Any, key: Any) -> None:
    """Replace the largest of a max-heap by `key`, which is smaller."""
    size = len(keys)
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and keys[child + 1] > keys[child]:
            child += 1
        if keys[child] <= key:
            break
        keys[place] = keys[child]
        place = child
    keys[place] = key


@loop
def _near(distances: Any, limit: Any) -> Any:
    """Whether any of the bits is at most `limit`, without branches, so that it vectorizes."""
    hits: Any = 0
    for column in range(len(distances)):
        hits |= np.int32(distances[column] <= limit)
    return hits != 0


@loop
def select_rows(
    tile: Any, top: Any, left: Any, squares: Any, heaps: Any, far: Any, start: Any, stop: Any
) -> None:
    """Turn rows start … stop−1 of a tile of products into distances, and update their heaps.

    The tile (A, B) holds x_i·x_j for images i from `top`, j from `left`, on the diagonal for j > i.
    A key is a distance's bits and the image number; heaps (N, k) keep the k smallest keys of each
    image. `far` (N,), unless empty, keeps the bits of the largest distance.
    """
    bits = tile.view(np.int32)
    width = tile.shape[1]
    for row in range(start, stop):
        skipped = row + 1 if top == left else 0
        own = squares[top + row]
        line, others = tile[row, skipped:], squares[left + skipped : left + width]
        for column in range(len(line)):
            d = own + others[column] - np.float32(2) * line[column]
            line[column] = d if d > np.float32(0) else np.float32(0)
        found = bits[row, skipped:]
        if len(far):
            largest = far[top + row]
            for column in range(len(found)):
                largest = max(largest, found[column])
            far[top + row] = largest
        heap = heaps[top + row]
        limit = np.int32(heap[0] >> 32)
        for first in range(0, len(found), _GROUP):
            group = found[first : first + _GROUP]
            if _near(group, limit):
                for place in range(len(group)):
                    key = (np.int64(group[place]) << 32) | (left + skipped + first + place)
                    if key < heap[0]:
                        _push(heap, key)
                limit = np.int32(heap[0] >> 32)


@loop
def select_columns(
    tile: Any, top: Any, left: Any, heaps: Any, far: Any, start: Any, stop: Any
) -> None:
    """The same for the images of columns start … stop−1, from the distances now in the tile."""
    bits = tile.view(np.int32)
    limits = (heaps[left + start : left + stop, 0] >> 32).astype(np.int32)
    for row in range(tile.shape[0]):
        begin = max(start, row + 1) if top == left else start
        found, bounds = bits[row, begin:stop], limits[begin - start :]
        if len(far):
            largest = far[left + begin : left + stop]
            for place in range(len(found)):
                largest[place] = max(largest[place], found[place])
        for first in range(0, len(found), _GROUP):
            group, bound = found[first : first + _GROUP], bounds[first : first + _GROUP]
            hits: Any = 0
            for place in range(len(group)):
                hits |= np.int32(group[place] <= bound[place])
            if hits:
                for place in range(len(group)):
                    if group[place] <= bound[place]:
                        heap = heaps[left + begin + first + place]
                        key = (np.int64(group[place]) << 32) | (top + row)
                        if key < heap[0]:
                            _push(heap, key)
                            bound[place] = np.int32(heap[0] >> 32)


@loop(fastmath=True)
def _squared_distance(a: Any, b: Any) -> Any:
    total = np.float32(0)
    for place in range(len(a)):
        difference = a[place] - b[place]
        total += difference * difference
    return total


@loop
def measure(
    x: Any, heaps: Any, k: int, limits: Any, safe: Any, errors: Any, unsettled: Any, broken: Any,
    start: int, stop: int,
) -> None:  # fmt: skip
    """Measure the candidates of images start … stop−1, and mark images that stay unsettled.

    Args:
        heaps: (N, C), sorted keys of candidates; those up to an image's limit get the key of their
            exact squared distance, the others an infinite one.
        limits: (N,), candidates beyond are not among the k nearest. safe: (N,), images that are no
            candidates are at least this far. errors: (N,), bound of a candidate's error.
        unsettled: (N,) bool, set where neither shows that the k nearest are found.
        broken: (N,) bool, set where an error exceeded its bound.
    """
    value = np.empty(1, np.float32)
    bits = value.view(np.int32)
    for row in range(start, stop):
        heap = heaps[row]
        settled, nearer = False, 0
        for place in range(len(heap)):
            bits[0] = np.int32(heap[place] >> 32)
            estimate = value[0]
            if settled or (place >= k and estimate > limits[row]):
                settled = True
                heap[place] = np.int64(0x7F800000) << 32
                continue
            other = heap[place] & 0xFFFFFFFF
            value[0] = _squared_distance(x[row], x[other])
            if abs(value[0] - estimate) > errors[row]:
                broken[row] = True
            nearer += value[0] < safe[row]
            heap[place] = np.int64(bits[0]) << 32 | other
        unsettled[row] = not settled and nearer < k
