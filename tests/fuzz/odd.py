"""Odd values, JSON, bytes, arrays and files: what generated cases are made of.

Every function draws from the random generator that it is given, so a seed repeats a case.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

T = TypeVar("T")
Draw = np.random.Generator

LONG = "x" * 5000
NOT_UTF8 = os.fsdecode(b"caf\xe9")
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 7, 64, 0.5, -0.5, 1.0, 1e-300, 1e300, 1e20, float("nan"), float("inf"),
    -float("inf"), 10**18, 2**63, 10**30,
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    *NUMBERS, None, True, False, "", " ", "abc", "0", "-1", "1e3", "..", "../../x", "a/b", "/",
    "~", "~nobody-of-that-name/x", "ä µ 人", "\0", "<b>&", "${seed}", "???", LONG, NOT_UTF8,
    [], {}, [1], ["a"], [None], [[1, 2]], {"a": 1}, {"a": {"b": None}}, [float("nan")],
)  # fmt: skip
#: values as the command line gives them
WORDS = (
    "0", "1", "-1", "2", "3", "7", "0.5", "1.0", "-0.5", "1e20", "1e-300", "1e999", "nan", "inf",
    "-inf", "1000000000000000000", "100000000000000000000", "null", "true", "off", "", "abc", "'1'",
    "2024", "..", "../../x", "a/b", "/", "~", "'~nobody-of-that-name'", "ä", "[1]", "[]",
    "[nan]", "[0,1]", "[a,b]", "{}", "{a: 1}", "{a: nan}", "{a: {b: null}}", "${seed}",
    "${nowhere}", "${oc.env:NO_SUCH}", "???", "1,2", "choice(1,2)", "range(3)", "\\", "'", '"',
    "[", "{", "a=b", "#", LONG, NOT_UTF8,
)  # fmt: skip


def pick(draw: Draw, among: Sequence[T]) -> T:
    """One of a sequence; its entries are not converted to arrays."""
    return among[int(draw.integers(len(among)))]


def nested(draw: Draw) -> Any:
    """A value many levels deep."""
    value: Any = 1
    for _ in range(int(pick(draw, (20, 70, 400)))):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value


# ------------------------------------------------------------------------------- JSON


def odd_json(draw: Draw, content: Any) -> str:
    """JSON like `content` with one to three faults, or text that is none."""
    if draw.random() < 0.1:
        return pick(draw, ("", "{", "null", "3", "[]", "{}", '"a"', "NaN", "[" * 100_000, "\0"))
    content = copy.deepcopy(content)
    for _ in range(int(draw.integers(1, 4))):
        content = _changed(draw, content)
    text = json.dumps(content)
    return text[: int(draw.integers(len(text)))] if draw.random() < 0.05 else text


def _changed(draw: Draw, content: Any) -> Any:
    """The content with one value, at any depth, removed, replaced or renamed."""
    places = list(_places(content))
    if not places:
        return pick(draw, VALUES)
    node, key = pick(draw, places)
    action = draw.random()
    if action < 0.3:
        del node[key]
    elif action < 0.9:
        node[key] = nested(draw) if draw.random() < 0.05 else copy.deepcopy(pick(draw, VALUES))
    elif isinstance(node, dict):
        node[str(pick(draw, VALUES))] = node.pop(key)
    else:
        node.insert(0, node[key])
    return content


def _places(node: Any, depth: int = 99) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every value down to a depth."""
    if depth and isinstance(node, dict | list):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from _places(node[key], depth - 1)


# ------------------------------------------------------------------------------- bytes


def odd_bytes(draw: Draw, content: bytes) -> bytes:
    """Bytes that are damaged, cut off, or of another kind of file."""
    action = draw.random()
    if action < 0.1:
        return content[: int(draw.integers(len(content) + 1))]
    if action < 0.2:
        other: tuple[Callable[[], bytes], ...] = (
            bytes, lambda: b"\0" * 100, lambda: b"PK\x03\x04", lambda: b"\x93NUMPY\x01\0",
            lambda: pickle.dumps({"a": 1}), lambda: pickle.dumps(Evil()), lambda: b"{}",
            lambda: saved(torch.zeros(3)), lambda: draw.bytes(300),
        )  # fmt: skip
        return pick(draw, other)()
    changed = bytearray(content or b"x")
    for _ in range(int(pick(draw, (1, 1, 1, 4, 40)))):
        place = int(draw.integers(len(changed)))
        if draw.random() < 0.5:  # headers and indices are at both ends
            place = int(draw.integers(min(400, len(changed)))) * int(pick(draw, (1, -1)))
        changed[place] ^= 1 << int(draw.integers(8))
    return bytes(changed)


class Evil:
    """Unpickling it would make a file."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("unpickled",)


def saved(content: Any) -> bytes:
    """As torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def odd_state(draw: Draw, state: Any, depth: int = 9) -> bytes:
    """A file of torch.save that can be read and holds something else than `state`, at most this
    many levels deep.
    """
    others: tuple[Any, ...] = (
        {}, [], None, 3, "text", torch.zeros(2), {"a": 1}, {1: torch.zeros(2)}, {"state_dict": {}},
        {"state_dict": 3}, {"model": state}, [state], {"state_dict": {"a": torch.zeros(2)}},
    )  # fmt: skip
    if draw.random() < 0.3:
        return saved(pick(draw, others))
    state = copy.deepcopy(state)
    node, key = pick(draw, list(_places(state, depth)))
    value = node[key]
    if isinstance(value, torch.Tensor) and draw.random() < 0.8:
        tensors: tuple[Callable[[], Any], ...] = (
            lambda: value[None], lambda: value.flatten()[:0], lambda: value.double(),
            lambda: value.to(torch.complex64), lambda: value.to(torch.int8),
            lambda: value.to_sparse(),
            lambda: torch.full_like(value, 100), lambda: value.bool(),
        )  # fmt: skip
        node[key] = pick(draw, tensors)()
    elif draw.random() < 0.4:
        del node[key]
    else:
        node[key] = copy.deepcopy(pick(draw, VALUES))
    return saved(state)


# ------------------------------------------------------------------------------- arrays


def odd_array(draw: Draw, array: np.ndarray) -> np.ndarray:
    """An array of another shape, kind or content."""
    kinds: tuple[Callable[[], np.ndarray], ...] = (
        lambda: array[:0], lambda: array[:1], lambda: array[:-1], lambda: array[None],
        lambda: array.reshape(-1), lambda: array[..., None], lambda: np.asarray(0.0),
        lambda: array.T, lambda: array[::-1], lambda: np.asfortranarray(array),
        lambda: array.astype(str), lambda: array.astype("S"), lambda: array.astype(object),
        lambda: np.zeros(3, dtype=[("a", "i4")]), lambda: np.array(["2020-01-01"], "M8[D]"),
        lambda: np.zeros_like(array), lambda: array.repeat(2, axis=0),
    )  # fmt: skip
    numeric: tuple[Callable[[], np.ndarray], ...] = (
        lambda: array.astype(np.float16), lambda: array.astype(np.float64) * 1e300,
        lambda: array.astype(np.longdouble), lambda: array.astype(">f8"),
        lambda: array.astype(np.complex64), lambda: array.astype(np.int8),
        lambda: array.astype(np.uint64) + np.uint64(2**63), lambda: array > 0,
        lambda: array.astype(np.float32) + np.float32(0.5), lambda: _with(draw, array, np.nan),
        lambda: _with(draw, array, np.inf), lambda: _with(draw, array, -1), lambda: array * 0 - 1,
    )  # fmt: skip
    with np.errstate(all="ignore"):
        return pick(draw, (*kinds, *numeric) if array.dtype.kind in "if" else kinds)()


def _with(draw: Draw, array: np.ndarray, value: float) -> np.ndarray:
    changed = array.astype(np.float64)
    changed.flat[int(draw.integers(changed.size))] = value
    return changed


def odd_npz(draw: Draw, path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz like `arrays` with a fault."""
    changed = dict(arrays)
    action = draw.random()
    if action < 0.7:
        for _ in range(int(draw.integers(1, 3))):
            name = pick(draw, list(changed))
            changed[name] = odd_array(draw, np.asarray(arrays[name]))
    elif action < 0.8:
        changed.pop(pick(draw, list(changed)))
    elif action < 0.85:
        changed["more"] = np.zeros(3)
    np.savez(path, allow_pickle=True, **changed)
    if action >= 0.85:
        path.write_bytes(odd_bytes(draw, path.read_bytes()))


def npy_of_shape(shape: tuple[int, ...]) -> bytes:
    """An .npy whose header claims a shape, and that holds next to nothing."""
    buffer = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + b"\0" * 64
