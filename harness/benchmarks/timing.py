"""Candidates timed in alternating rounds (A B C, C B A, …), so that other load and a drift of the
machine's speed affect all alike.

Each measurement notes how much of the processor other work took. One that was disturbed is
repeated, and a result that stays disturbed says so and is not written to a file.
"""

from __future__ import annotations

import functools
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness.core.environment import environment
from harness.core.errors import ConfigError, HarnessError
from harness.core.files import check_writable, expanded, make_folder, read_json, write_json
from harness.core.hashing import settings_digest
from harness.core.host_memory import PeakMemory
from harness.core.load import Load, LoadMeter, cpu_seconds, run_queue
from harness.results.measured_costs import hardware


@dataclass(frozen=True)
class Round:
    """One timed round: so many images took so many seconds.

    Attributes:
        details: other numbers of the round, such as the share of time spent waiting for data.
        prepared: images that CPUs worked on before the clock started.
    """

    images: int
    seconds: float
    details: Mapping[str, float] = field(default_factory=dict)
    prepared: int = 0


def built_when_run(make: Callable[[], Callable[[], Round]]) -> Callable[[], Round]:
    """Rounds whose networks are built in the warm-up, which measures memory."""
    made = functools.cache(make)
    return lambda: made()()


@dataclass(frozen=True)
class Bounds:
    """When a measurement counts as disturbed.

    load: share of our cores that other processes and other virtual machines may take.
    error: `error_of_median` of a candidate's rates, or of a method's cost.
    retries: how often a disturbed measurement is repeated; the least disturbed one counts.
    """

    load: float = 0.1
    error: float = 0.1
    retries: int = 2


USUAL = Bounds()


@dataclass
class Candidate:
    """Something to time: `run` does one round.

    Attributes:
        about: settings of this candidate alone, for its summary.
        every: it is timed in one of so many rounds; the others repeat its last time.
        cpu_rates: images per CPU second of each round, worker processes included.
        loads: other work during each round; None if it is unknown.
        repeated: how many disturbed rounds were repeated.
        memory_mib: peak memory above that before the warm-up, which builds the networks: host_above
            and, on a GPU, device_above.
    """

    name: str
    run: Callable[[], Round]
    about: Mapping[str, Any] = field(default_factory=dict)
    every: int = 1
    rounds: list[Round] = field(default_factory=list)
    cpu_rates: list[float] = field(default_factory=list)
    loads: list[Load | None] = field(default_factory=list)
    repeated: int = 0
    memory_mib: dict[str, float] = field(default_factory=dict)

    @property
    def rates(self) -> list[float]:
        """Images per second of each round."""
        return [each.images / each.seconds for each in self.rounds]

    def warm_up(self, device: torch.device) -> None:
        """Run a round that does not count, and measure peak memory."""
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
        with PeakMemory() as peak:
            self.run()
        self.memory_mib["host_above"] = round(peak.mib, 1)
        if on_gpu:
            rise = torch.cuda.max_memory_allocated(device) - before
            self.memory_mib["device_above"] = round(rise / 2**20, 1)

    def measure(self, bounds: Bounds) -> None:
        """Run a round that counts, again as long as it is disturbed and may be repeated."""
        tries: list[tuple[float, int, Load | None, float, Round]] = []
        for _ in range(1 + bounds.retries):
            meter, before = LoadMeter(), cpu_seconds()
            done = self.run()
            cpu_rate = (done.images + done.prepared) / max(cpu_seconds() - before, 1e-6)
            load = meter.read()
            tries.append((load.total if load else 0.0, len(tries), load, cpu_rate, done))
            if tries[-1][0] <= bounds.load:
                break
        _, _, load, cpu_rate, done = min(tries, key=lambda each: each[:2])
        self.repeated += len(tries) - 1
        self.loads.append(load)
        self.cpu_rates.append(cpu_rate)
        self.rounds.append(done)

    def summary(self) -> dict[str, Any]:
        """Medians, the rates and their spread (their range over their median), and peak memory."""
        median = statistics.median
        keys = self.rounds[0].details
        details = {k: round(median(each.details[k] for each in self.rounds), 5) for k in keys}
        return {
            "images_per_second": round(median(self.rates), 2),
            "spread": round(spread(self.rates), 3),
            "rounds": [round(rate, 2) for rate in self.rates],
            "images_per_core_second": round(median(self.cpu_rates), 2),
            "seconds": round(median(each.seconds for each in self.rounds), 4),
            **details,
            "memory_mib": self.memory_mib,
            **self.about,
        }


def take_turns(
    candidates: Sequence[Candidate],
    repeats: int,
    device: torch.device,
    bounds: Bounds,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Time candidates in turns: one round each to warm up, then `repeats` rounds each.

    Every second round has the reverse order.

    Returns:
        `load`: other work during the rounds that count, how many rounds were repeated, and the
            bound. The run queue at the start and the end is for information only.
        `disturbed`: a line if other work took more than the bound, with the candidates' names.
    """
    total = (1 + repeats) * len(candidates)
    for done, candidate in enumerate(candidates, start=1):
        candidate.warm_up(device)
        progress(done, total)
    queue, whole = run_queue(), LoadMeter()
    for number in range(repeats):
        for candidate in reversed(candidates) if number % 2 else candidates:
            if number % candidate.every:
                candidate.rounds.append(candidate.rounds[-1])
            else:
                candidate.measure(bounds)
            done += 1
            progress(done, total)
    overall = whole.read()
    # rounds may be too short for the kernel's clock; the whole measurement seldom is
    loads = [load for each in candidates for load in each.loads]
    known = [load for load in loads if load]
    if overall and len(known) < len(loads):
        known.append(overall)
    load: dict[str, Any] = {"others": None, "steal": None, "highest": None}
    if known:
        load["others"] = round(statistics.median(each.others for each in known), 4)
        load["steal"] = round(statistics.median(each.steal for each in known), 4)
        load["highest"] = round(max(each.total for each in known), 4)
    load |= {"run_queue": [queue, run_queue()], "repeated": sum(c.repeated for c in candidates)}
    load["bounds"] = {"load": bounds.load, "error": bounds.error}
    disturbed = []
    worst = max((each.total for each in known), default=0.0)
    if worst > bounds.load:
        busy = {each.name: [one for one in each.loads if one] for each in candidates}
        names = [name for name, own in busy.items() if any(o.total > bounds.load for o in own)]
        where = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        disturbed = [f"other work took up to {worst:.0%} of the CPU ({where or 'all rounds'})"]
    return {"load": load, "disturbed": disturbed}


def compare(
    what: str, setting: Mapping[str, Any], candidates: Sequence[Candidate], repeats: int,
    device: torch.device, bounds: Bounds = USUAL,
) -> dict[str, Any]:  # fmt: skip
    """Time candidates in turns, and compare the first one with each other one.

    Returns:
        `candidates`: each one's summary. `ratios`: how many times as fast the first one is as each
        other one, the median of the ratios within a round, and its `error_of_median`. `machine`:
        hardware, versions, date. `load` and `disturbed`: see `take_turns`; candidates whose median
        rate is too uncertain are added.
    """
    measured = take_turns(candidates, repeats, device, bounds)
    errors = {each.name: error_of_median(each.rates) for each in candidates}
    measured["disturbed"] += uncertain("rate", errors, bounds)
    first, *others = candidates
    ratios: dict[str, dict[str, float]] = {}
    for other in others:
        wall, cpu = (
            [a / b for a, b in zip(ones, twos, strict=True)]
            for ones, twos in ((first.rates, other.rates), (first.cpu_rates, other.cpu_rates))
        )
        ratios[other.name] = {
            "images_per_second": round(statistics.median(wall), 2),
            "error": round(error_of_median(wall), 3),
            "images_per_core_second": round(statistics.median(cpu), 2),
        }
    return {"what": what, "setting": dict(setting), "ratios": ratios, "machine": machine(device),
            "candidates": {each.name: each.summary() for each in candidates},
            **measured}  # fmt: skip


def machine(device: torch.device) -> dict[str, Any]:
    """Hardware, versions and date of a measurement."""
    return environment(device) | {"date": time.strftime("%Y-%m-%d", time.gmtime())}


def spread(values: Sequence[float]) -> float:
    """The range of some values over their median."""
    return (max(values) - min(values)) / statistics.median(values)


def uncertain(what: str, errors: Mapping[str, float], bounds: Bounds) -> list[str]:
    """A line for each name whose `error_of_median` is above the bound."""
    return [
        f"{name}: the {what} is uncertain by ± {error:.0%}"
        for name, error in errors.items()
        if error > bounds.error
    ]


def check_folder(folder: str) -> None:
    """Refuse a folder that `save` could not write to. Makes nothing.

    Raises:
        ConfigError: it is a file. HarnessError: it cannot be made or written.
    """
    path = expanded(folder)
    if path.exists() and not path.is_dir():
        raise ConfigError(f"--output {folder} is a file.", "Give a folder.")
    check_writable(path)


def save(result: Mapping[str, Any], folder: str) -> Path:
    """Write a result into a folder, as `train-nvidia-h200.json`.

    It replaces a result of the same setting, candidates and number of threads. One of another
    setting (data set, protocol, methods, …) is kept: the name of the new file ends in a digest.

    Raises:
        HarnessError: other work disturbed the measurement.
    """
    if result["disturbed"]:
        raise HarnessError(
            f"The measurement was disturbed and is not written. {'; '.join(result['disturbed'])}.",
            "Repeat it when nothing else runs, with more --retries or --repeats, or accept it: "
            "--max-load 1 --max-error 9.",
        )
    about = result["machine"]
    device = hardware(about["device"], about["cpu"])
    name = re.sub(r"[^a-z0-9]+", "-", f"{result['what']} {device}".lower()).strip("-")
    path = expanded(folder) / f"{name}.json"
    make_folder(path.parent)
    digest = _digest(result)
    of_hardware = re.compile(rf"{re.escape(name)}(-[0-9a-f]{{8}})?\.json")
    earlier = sorted(each for each in path.parent.iterdir() if of_hardware.fullmatch(each.name))
    if alike := [each for each in earlier if _digest_of(each) == digest]:
        path = alike[0]
    elif path.exists():
        path = path.with_stem(f"{name}-{digest}")
    write_json(path, result)
    return path


def _digest(result: Mapping[str, Any]) -> str:
    """Digest of what was timed, and how."""
    timed = [result["setting"], sorted(result["candidates"]), result["machine"]["threads"]]
    return settings_digest(timed)[:8]


def _digest_of(path: Path) -> str | None:
    """The digest of the result in a file; None if it holds none."""
    try:
        return _digest(read_json(path))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def error_of_median(values: Sequence[float]) -> float:
    """Half the width of the median's 95% interval, over the median; 1 for a single value.

    The interval lies between two of the sorted values, whatever their distribution: the k-th
    lowest and the k-th highest, k the largest with P(B < k) ≤ 2.5 % for B ~ Binomial(n, ½). Of
    fewer than six values it is their range, and covers less than 95 %.
    """
    n, ordered = len(values), sorted(values)
    if n < 2:
        return 1.0
    k, tail = 0, 0.0
    while (tail := tail + math.comb(n, k) / 2**n) <= 0.025:
        k += 1
    k = max(k, 1)
    return (ordered[n - k] - ordered[k - 1]) / (2 * statistics.median(values))
