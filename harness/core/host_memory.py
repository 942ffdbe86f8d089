"""Memory: what the C library keeps, and what to do when a GPU has too little.

Let the C library keep freed memory: a third of training time on CPUs went into getting it back.

Every activation of a network is larger than glibc's threshold for asking the kernel for new pages,
so a training step had over a million page faults. On 2 cores with ResNet-50 (128 at once,
one process, before and after): training at 128×64 from 13.8 to 19.5 images/s, inference at 256×128
from 10.7 to 15.6; with huge pages as well 18.7.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from harness.core.notices import say_once

Result = TypeVar("Result")

# names of <malloc.h>, which Python does not know
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def before_torch() -> None:
    """What has to be set before torch is imported. A user's own values win.

    Large CPU tensors take 2 MiB pages. OpenMP's threads sleep between their jobs: spinning, they
    take the cores from the compiled loops that follow a matrix product (choosing neighbours took
    0.30 s instead of 0.20 s for 12,936 images on 2 cores; training steps take as long either way).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def keep_freed_memory() -> None:
    """Freed memory stays with the process. Nothing happens where the C library is not glibc."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_M_TOP_PAD, 64 << 20)


def halving(work: Callable[[int], Result], block: int, what: str) -> Result:
    """`work(block)`; whenever the GPU runs out of memory, again with half the block.

    Args:
        work: does the whole job in blocks of the given size; is started anew.
        what: named in the notice ("the neighbour search").

    Raises:
        torch.OutOfMemoryError: not even blocks of one fit.
    """
    import torch

    while True:
        try:
            return work(block)
        except torch.OutOfMemoryError:
            if block <= 1:
                raise
        # outside of the except, whose traceback holds on to the block's tensors
        block //= 2
        torch.cuda.empty_cache()
        say_once(
            f"the GPU is short of memory: {what} goes on in smaller blocks, with equal results"
        )


class PeakMemory:
    """How far the process's resident memory rose above where it was: `with PeakMemory() as peak`.

    Attributes:
        mib: MiB, once the block has ended. On Linux the kernel's mark is reset first; elsewhere
            only memory beyond the largest so far is seen.
    """

    mib: float = 0.0

    def __enter__(self) -> PeakMemory:
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # else what was freed hides the rise
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = _resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.mib = max(0.0, _resident("VmHWM") - self._before)


def _resident(field: str) -> float:
    """Resident MiB of this process: now (VmRSS) or at most (VmHWM)."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        import resource

        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))
