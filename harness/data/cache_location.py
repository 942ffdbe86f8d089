"""Where the training images lie while a stage runs: `data.cache_location`. It changes speed, never results.

`device`: all of them on the GPU (on a CPU: in main memory). `pinned`: in main memory that the GPU
copies from by itself. `mmap`: in the image cache's file, which the system keeps in memory as far as there
is room. From the last two, a thread gathers the next batches while the network works
(`harness/data/prefetcher.py`). `auto` takes the first of the three that fits.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import ConfigError, did_you_mean
from harness.data.image_cache import ImageCache

LOCATIONS = ("auto", "device", "pinned", "mmap")
#: of a GPU's free memory that images may take; the rest is for training
DEVICE_SHARE = 0.25
#: of the free main memory that may be pinned; torch rounds what it pins up to a power of two
HOST_SHARE = 0.5


@dataclass(frozen=True)
class Place:
    """Where images lie. name: device, pinned or mmap. told: the same for a person, and why."""

    name: str
    told: str


def check_cache_location(wish: str, device: torch.device) -> None:
    """Whether `data.cache_location` can be had on a device at all.

    Raises:
        ConfigError: an unknown place, or memory to be pinned without a GPU.
    """
    if wish not in LOCATIONS:
        raise ConfigError(f"data.cache_location={wish} is unknown.", did_you_mean(wish, LOCATIONS))
    if wish == "pinned" and device.type != "cuda":
        raise ConfigError(
            f"data.cache_location=pinned needs a GPU that copies from pinned memory; this is {device}.",
            "Use data.cache_location=auto, device (all in main memory) or mmap.",
        )


def choose_place(
    wish: str, size: int, device: torch.device, free: int | None, host: int | None
) -> Place:
    """Where `size` bytes of images lie.

    Args:
        wish: `data.cache_location`. free: bytes free on the GPU, None without one. host: bytes free in main
            memory, None if that is not known.

    Raises:
        ConfigError: they do not fit where they were wished.
    """
    check_cache_location(wish, device)
    if device.type != "cuda":
        if wish != "device":
            return Place("mmap", "in the image cache's file, read ahead")
        if host is not None and size > host:
            raise ConfigError(
                f"data.cache_location=device: the images take {_gb(size)}, and {_gb(host)} of main memory "
                "are free.",
                "Use data.cache_location=auto.",
            )
        return Place("device", "in main memory")
    assert free is not None
    fits = size <= free * DEVICE_SHARE
    if wish == "device" and size > free:
        raise ConfigError(
            f"data.cache_location=device: the images take {_gb(size)}, and {_gb(free)} of the GPU are free.",
            "Use data.cache_location=auto.",
        )
    if wish == "device" or (wish == "auto" and fits):
        return Place("device", "on the GPU")
    room = host is not None and 1 << (size - 1).bit_length() <= host * HOST_SHARE
    if wish == "pinned" or (wish == "auto" and room):
        return Place("pinned", "in pinned main memory, sent ahead")
    return Place("mmap", "in the image cache's file, sent ahead")


def put(image_cache: ImageCache, place: Place, device: torch.device) -> np.ndarray | Tensor:
    """The images (N, H, W, 3) uint8 of an image cache where they are to lie."""
    if place.name == "mmap":
        return image_cache.images
    if place.name == "device":
        return image_cache.tensor(device)
    return image_cache.tensor("cpu", pinned=True)


def place_cache(
    wish: str, image_cache: ImageCache, device: torch.device
) -> tuple[np.ndarray | Tensor, Place]:
    """Choose a place by what is free here and now, and put the images there.

    Raises:
        ConfigError: see `choose_place`.
    """
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    place = choose_place(wish, image_cache.images.nbytes, device, free, free_memory())
    return put(image_cache, place, device), place


def free_memory() -> int | None:
    """Bytes of main memory that this process can still have, or None where no one tells."""
    found = [value for value in (_system(), _control_group()) if value is not None]
    return min(found) if found else None


def _system() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return None


def _control_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a container's limit leaves (cgroup v2)."""
    try:
        most = int((folder / "memory.max").read_text(encoding="ascii"))
        used = int((folder / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or "max"
        return None
    return max(0, most - used)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
