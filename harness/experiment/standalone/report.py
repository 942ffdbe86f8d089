"""What `harness label` and `harness score` share: time, memory, and output files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from harness.core.distributed.processes import use_threads
from harness.core.environment import device_name, peak_memory
from harness.core.errors import ConfigError, HarnessError
from harness.core.files import expanded, make_folder
from harness.core.precision import resolve_device


@contextmanager
def stage(name: str, seconds: dict[str, float], device: str | torch.device) -> Iterator[None]:
    """Time a step: `seconds[name]`.

    Raises:
        HarnessError: the GPU runs out of memory.
    """
    start = time.perf_counter()
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise HarnessError(
            f"{device_name(torch.device(device))} has too little memory.", "Use --device cpu."
        ) from error
    seconds[name] = time.perf_counter() - start


class Costs:
    """Device, time and memory of a command."""

    def __init__(self, device: str, threads: int) -> None:
        if threads:
            use_threads(threads, f"--threads {threads}")
        self.device = resolve_device(device)
        if self.device.type not in ("cpu", "cuda"):
            raise ConfigError(f"--device {device} is not supported.", "Use auto, cpu or cuda.")
        self.before = peak_memory(self.device)  # mainly torch itself

    @property
    def where(self) -> str:
        """Device and threads in words."""
        threads = torch.get_num_threads()
        if self.device.type == "cpu":
            return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
        return device_name(self.device)

    def as_dict(self, seconds: Mapping[str, float], mib: float) -> dict[str, object]:
        """For JSON; `before_mib` is the peak before anything was read."""
        peak = peak_memory(self.device)
        return {
            "device": self.where,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "features_mib": mib,
            "before_mib": self.before,
            "peak_mib": peak,
            "peak_mib_without_features": {k: round(v - mib, 1) for k, v in peak.items()},
        }

    def lines(self, seconds: Mapping[str, float], mib: float) -> Iterator[str]:
        """The same for a terminal."""
        yield f"seconds   {'  '.join(f'{name} {value:.2f}' for name, value in seconds.items())}"
        for name, peak in peak_memory(self.device).items():
            work = max(0.0, peak - self.before[name] - mib)
            yield (
                f"memory    {peak:.0f} MiB at most{'' if name == 'host' else ' on the GPU'}: "
                f"libraries {self.before[name]:.0f}, features {mib:.0f}, work {work:.0f}"
            )


def check_output(
    option: str, path: str | None, suffix: str, force: bool, inputs: Mapping[str, Path]
) -> Path | None:
    """Refuse an output file that cannot be what the user meant, before any work.

    Args:
        option: the option that names it. suffix: how its name must end.
        force: whether an existing file may be overwritten. inputs: what they are → files.

    Returns:
        The path, or None without one.

    Raises:
        ConfigError: another suffix, a folder, an input, or a file that exists.
    """
    if path is None:
        return None
    target = expanded(path)
    if target.suffix != suffix:
        hint = f"Use {target.with_suffix(suffix)}, say." if target.name else "Name a file."
        raise ConfigError(f"{option} {path} does not end in {suffix}.", hint)
    if target.is_dir():
        raise ConfigError(f"{option} {path} is a folder.", "Name a file.")
    for what, other in inputs.items():
        if other.resolve() == target.resolve():
            raise ConfigError(f"{option} {path} is {what}.", "Name another file.")
    if target.exists() and not force:
        raise ConfigError(f"{path} exists.", "Add --force to overwrite it, or use another name.")
    return target


def make_output_folder(option: str, path: Path | None) -> None:
    """Create the folder of an output file; a ConfigError if it cannot be created or written."""
    if path is not None:
        try:
            make_folder(path.parent)
        except HarnessError as error:  # its hint is about runs
            raise ConfigError(error.cause, f"Choose another place: {option}.") from error
