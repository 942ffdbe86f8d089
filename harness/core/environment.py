"""What a result was computed with: versions, hardware, commit. Contains no user names or paths."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from harness.core.host_memory import max_resident, reset_peak
from harness.core.paths import CHECKOUT
from harness.core.version import __version__

PACKAGES = ("torch", "torchvision", "faiss-gpu", "faiss-cpu", "numpy", "scikit-learn", "pillow")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, hardware and commit, for the record."""
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "harness": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "packages": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or `CPU`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def cpu_name() -> str:
    """The processor's model name, if known, and the number of cores."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    return f"{name}, {os.cpu_count()} cores"


def commit() -> str | None:
    """Commit of the checkout, followed by `+` if files were changed; None outside of git."""
    if not (CHECKOUT / ".git").exists():
        return None
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        dirty = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if dirty else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(CHECKOUT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` begin anew. On hosts other than Linux it still counts from the start."""
    reset_peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, float]:
    """Peak memory of this process in MiB since `reset_peak_memory`, or else its start: `host`, and
    `device` on a GPU.
    """
    peak = {} if sys.platform == "win32" else {"host": max_resident()}
    if device.type == "cuda":
        peak["device"] = torch.cuda.max_memory_allocated(device) / 2**20
    return {name: round(value, 1) for name, value in peak.items()}
