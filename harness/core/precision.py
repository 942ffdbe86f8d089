"""Devices and arithmetic: `device`, `train.precision`, and exact fp32 products."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from harness.core.errors import ConfigError, did_you_mean, say_once

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
#: precisions in which networks run under autocast
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """The device named by `device`; `auto` is the first GPU, or the CPU.

    Raises ConfigError if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        meant = "cuda" if "gpu" in name.lower() else name
        hint = did_you_mean(meant, ["auto", "cpu", "cuda"])
        raise ConfigError(f"device={name} is unknown.", hint) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device={name}, but PyTorch finds {torch.cuda.device_count()} GPUs.",
            "Use device=auto or device=cpu, or install a PyTorch build that matches the driver.",
        )
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether the hardware computes bf16 (emulated bf16 is far slower than fp32)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolve_precision(name: str, device: torch.device) -> str:
    """The precision named by `train.precision`; `auto` is bf16 if the hardware has it, else fp32.

    Raises ConfigError if it is unknown, or not supported by the device.
    """
    if name == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    if name not in PRECISIONS:
        hint = did_you_mean(name, ["auto", *PRECISIONS])
        raise ConfigError(f"train.precision={name} is unknown.", hint)
    if name == "bf16" and not has_bf16(device):
        say_once(
            f"{device} has no bf16 units that are known here: emulated bf16 is far slower than "
            "fp32. train.precision=fp32 is faster, and its results are in a table of their own."
        )
    if name == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"train.precision=fp16 needs a GPU: {device} has no fp16 hardware.",
            "Use train.precision=auto, which is bf16 if the processor supports it.",
        )
    return name


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """A gradient scaler for fp16; it does nothing in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Context for a forward pass in a precision. Parts that need fp32 disable autocast."""
    half = HALVES.get(precision, torch.bfloat16)
    with fp32_as(precision), torch.autocast(device.type, half, enabled=precision in HALVES):
        yield


@contextlib.contextmanager
def fp32_as(precision: str) -> Iterator[None]:
    """Allow TF32 on a GPU, forward and backward, only if `precision` is tf32.

    torch's own default lets convolutions use TF32.
    """
    value = "tf32" if precision == "tf32" else "ieee"
    with _fp32_precision(value, torch.backends.cuda.matmul, torch.backends.cudnn.conv):  # type: ignore[attr-defined]
        yield


@contextlib.contextmanager
def exact_matmul(device: torch.device) -> Iterator[None]:
    """Full fp32 products in any training context: TF32 and autocast would change ranks."""
    with _exact, torch.autocast(device.type, enabled=False):
        yield


class _Exact:
    """The switches are global: among concurrent threads, the last one to leave restores them."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._state = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                switches = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
                self._state.enter_context(_fp32_precision("ieee", *switches))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._state.close()


_exact = _Exact()


@contextlib.contextmanager
def _fp32_precision(value: str, *switches: Any) -> Iterator[None]:
    """Set the fp32 precision of some of torch's backends, and restore it."""
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = value
        yield
    finally:
        for switch, old in zip(switches, before, strict=True):
            switch.fp32_precision = old
