"""Location of the training images during a stage: `data.cache_location`. Never affects results.

`device`: on the GPU (without one: in main memory). `pinned`: in pinned main memory, which the GPU
copies from asynchronously. `mmap`: in the memory-mapped file of the image cache. From the latter
two, a thread prefetches batches while the network computes (`harness/data/prefetcher.py`). `auto`
chooses the first of the three that fits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.core.distributed.processes import processes_here
from harness.core.errors import ConfigError, did_you_mean
from harness.core.host_memory import free_memory
from harness.data.image_cache import ImageCache

LOCATIONS = ("auto", "device", "pinned", "mmap")
#: share of a GPU's free memory that images may take; the rest is for training
DEVICE_SHARE = 0.25
#: share of the free main memory that may be pinned; torch rounds pinned sizes up to a power of two
HOST_SHARE = 0.5


@dataclass(frozen=True)
class CacheLocation:
    """A location of the training images: device, pinned or mmap; and its description in the log."""

    name: str
    description: str


def check_cache_location(requested: str, device: torch.device) -> None:
    """Raise ConfigError if `data.cache_location` is unknown, or `pinned` without a GPU."""
    if requested not in LOCATIONS:
        raise ConfigError(
            f"data.cache_location={requested} is unknown.", did_you_mean(requested, LOCATIONS)
        )
    if requested == "pinned" and device.type != "cuda":
        raise ConfigError(
            f"data.cache_location=pinned needs a GPU; this is {device}.",
            "Use data.cache_location=auto, device (in main memory) or mmap.",
        )


def choose_location(
    requested: str, size: int, device: torch.device, free_device: int | None, free_host: int | None
) -> CacheLocation:
    """Choose a location for `size` bytes of images; `requested` is `data.cache_location`.

    Free memory is in bytes: None without a GPU, and where the main memory's is unknown.

    Raises ConfigError if the images do not fit into the requested location.
    """
    check_cache_location(requested, device)
    if device.type != "cuda":
        if requested != "device":
            return CacheLocation("mmap", "in the image cache's file, read ahead")
        if free_host is not None:
            _check_fits(size, free_host, "main memory")
        return CacheLocation("device", "in main memory")
    assert free_device is not None
    if requested == "device":
        _check_fits(size, free_device, "GPU memory")
    if requested == "device" or (requested == "auto" and size <= free_device * DEVICE_SHARE):
        return CacheLocation("device", "on the GPU")
    pinned_size = 1 << (size - 1).bit_length()
    if requested == "pinned" or (
        requested == "auto" and free_host is not None and pinned_size <= free_host * HOST_SHARE
    ):
        return CacheLocation("pinned", "in pinned main memory, sent ahead")
    return CacheLocation("mmap", "in the image cache's file, sent ahead")


def _check_fits(size: int, free: int, memory: str) -> None:
    if size > free:
        raise ConfigError(
            f"data.cache_location=device: the images need {size / 1e9:.1f} GB, but only "
            f"{free / 1e9:.1f} GB of {memory} are free.",
            "Use data.cache_location=auto.",
        )


def place_images(
    requested: str, image_cache: ImageCache, device: torch.device
) -> tuple[np.ndarray | Tensor, CacheLocation]:
    """Choose a location by the memory that is free now, and put the images there.

    The processes of a machine put their images there at the same time, so each counts on an equal
    share of the free main memory.

    Returns the images (N, H, W, 3) uint8, and their location. Raises: see `choose_location`.
    """
    free_device = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    size = image_cache.images.nbytes
    free_host = free_memory()
    if free_host is not None:
        free_host //= processes_here()
    location = choose_location(requested, size, device, free_device, free_host)
    if location.name == "mmap":
        return image_cache.images, location
    if location.name == "device":
        return image_cache.tensor(device), location
    return image_cache.tensor("cpu", pinned=True), location
