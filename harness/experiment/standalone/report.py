"""What commands on own features share: stages, memory, outputs that are not overwritten."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from harness.core.environment import device_name, peak_memory
from harness.core.errors import ConfigError, HarnessError
from harness.core.files import make_folder
from harness.core.precision import resolve_device


class Report:
    """Lines for people, or none of them but on stderr where the answer is JSON.

    Attributes:
        device: where the work is done.
        seconds: stage → seconds, in the order in which stages began.
    """

    def __init__(self, device: str, threads: int, json: bool) -> None:
        if not 0 <= threads <= 1024:
            raise ConfigError(
                f"--threads {threads} is not 0 to 1024.", "0, the default, is all cores."
            )
        if threads:
            torch.set_num_threads(threads)
        self.device = resolve_device(device)
        if self.device.type not in ("cpu", "cuda"):
            raise ConfigError(f"--device {device} is not supported.", "Use auto, cpu or cuda.")
        self.json = json
        self.seconds: dict[str, float] = {}
        self.before = peak_memory(self.device)  # libraries

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage. On a GPU that is full the error says what to do.

        Raises:
            HarnessError: the GPU's memory does not suffice.
        """
        start = time.perf_counter()
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise HarnessError(
                f"The memory of {device_name(self.device)} does not suffice.", "Use --device cpu."
            ) from error
        self.seconds[name] = time.perf_counter() - start

    def say(self, text: str) -> None:
        """A line, at once."""
        print(text, file=sys.stderr if self.json else sys.stdout, flush=True)

    def where(self) -> str:
        """Device and threads, for the first line."""
        threads = torch.get_num_threads()
        if self.device.type == "cpu":
            return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
        return device_name(self.device)

    def costs(self, features_mib: float) -> dict[str, object]:
        """For JSON: device, seconds by stage, peak memory in MiB with and without the features.

        `before_mib` is the peak before anything was read: libraries, torch's above all.
        """
        peak = peak_memory(self.device)
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        return {
            "device": self.where(),
            "seconds": seconds,
            "features_mib": features_mib,
            "before_mib": self.before,
            "peak_mib": peak,
            "peak_mib_without_features": {
                name: round(value - features_mib, 1) for name, value in peak.items()
            },
        }

    def say_costs(self, features_mib: float) -> None:
        """The same in two lines or three."""
        self.say(f"seconds   {'  '.join(f'{k} {v:.2f}' for k, v in self.seconds.items())}")
        for name, peak in peak_memory(self.device).items():
            before = self.before[name]
            self.say(
                f"memory    {peak:.0f} MiB at most{'' if name == 'host' else ' on the GPU'}: "
                f"libraries {before:.0f}, features {features_mib:.0f}, "
                f"work {max(0.0, peak - before - features_mib):.0f}"
            )


def check_output(
    option: str, path: Path | None, suffix: str, force: bool, others: Mapping[str, Path | None]
) -> None:
    """Refuse an output that would not be what was meant, before any work.

    Args:
        option: the option that names it.
        path: the file to be, or None.
        suffix: what its name has to end in.
        force: whether a file that is there may be overwritten.
        others: files that it must not be: what they are → where.

    Raises:
        ConfigError: another ending, a folder, one of the others, or a file that is there.
    """
    if path is None:
        return
    if path.suffix != suffix:
        raise ConfigError(
            f"{option} {path} does not end in {suffix}.", f"Use {path.with_suffix(suffix)}, say."
        )
    if path.is_dir():
        raise ConfigError(f"{option} {path} is a folder.", "Name a file.")
    for what, other in others.items():
        if other is not None and other.resolve() == path.resolve():
            raise ConfigError(f"{option} {path} is {what}.", "Name another file.")
    if path.exists() and not force:
        raise ConfigError(f"{path} exists.", "Give --force to overwrite it, or another name.")


def make_output_folder(option: str, path: Path | None) -> None:
    """Make sure that a file can be written.

    Raises:
        HarnessError: its folder can neither be made nor written, or the disk is full.
    """
    if path is None:
        return
    try:
        make_folder(path.parent)
    except HarnessError as error:  # the hint there is that of a run
        raise ConfigError(error.cause, f"Choose another place: {option}.") from error
