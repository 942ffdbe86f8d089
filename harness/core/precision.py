"""Device and arithmetic: what `device=auto` and `train.precision=auto` stand for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from harness.core.errors import ConfigError, did_you_mean

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
#: precisions in which networks run under autocast
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(name: str) -> torch.device:
    """`auto` is the first GPU, or the CPU.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(
            f"device={name} is unknown.", did_you_mean(name, ["auto", "cpu", "cuda"])
        ) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device={name}, but PyTorch sees {torch.cuda.device_count()} GPUs here.",
            "Use device=auto or device=cpu, or install a PyTorch that fits the driver.",
        )
    return device


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is computed by the hardware (emulated, it is far slower than fp32)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolve_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 where the hardware has it, fp32 elsewhere.

    Raises:
        ConfigError: an unknown precision, or one that the device does not have.
    """
    if name == "auto":
        return "bf16" if has_bf16(device) else "fp32"
    if name not in PRECISIONS:
        raise ConfigError(
            f"train.precision={name} is unknown.", did_you_mean(name, ["auto", *PRECISIONS])
        )
    if name == "fp16" and device.type != "cuda":
        raise ConfigError(
            f"train.precision=fp16 needs a GPU: {device} would compute it without units for it.",
            "Use train.precision=auto, which is bf16 where the processor has units for that.",
        )
    return name


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """What keeps fp16's gradients from vanishing; for other precisions it does nothing."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Run a network's forward pass in a precision; parts that need fp32 leave it themselves."""
    with (
        fp32_as(precision),
        torch.autocast(
            device.type, dtype=HALVES.get(precision, torch.bfloat16), enabled=precision in HALVES
        ),
    ):
        yield


@contextlib.contextmanager
def fp32_as(precision: str) -> Iterator[None]:
    """What fp32 means on a GPU, forward and backward: TF32 only where it was asked for.

    torch's own default lets convolutions use TF32.
    """
    value = "tf32" if precision == "tf32" else "ieee"
    with _fp32_is(value, torch.backends.cuda.matmul, torch.backends.cudnn.conv):  # type: ignore[attr-defined]
        yield


@contextlib.contextmanager
def exact_matmul(device: torch.device) -> Iterator[None]:
    """Full fp32 products whatever a training loop has set: TF32 and autocast reorder ranks."""
    with _exact, torch.autocast(device.type, enabled=False):
        yield


class _Exact:
    """The switches are the process's, so with several threads the last one out sets them back."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._state = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                switches = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
                self._state.enter_context(_fp32_is("ieee", *switches))
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._state.close()


_exact = _Exact()


@contextlib.contextmanager
def _fp32_is(value: str, *switches: Any) -> Iterator[None]:
    """Set what fp32 means to some of torch's back-ends, and set it back."""
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = value
        yield
    finally:
        for switch, old in zip(switches, before, strict=True):
            switch.fp32_precision = old
