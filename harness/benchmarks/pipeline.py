"""`harness bench train | extract | augment`: the pipeline's images a second, beside a plain one.

Both are measured in turns, in one process and on the same images, so that what else a machine does
weighs on both. The first round warms up. Networks have random weights: arithmetic takes as long.
"""

from __future__ import annotations

import operator
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness.benchmarks import dataloader_baseline as plain
from harness.benchmarks import harness_rounds as ours
from harness.benchmarks import reference
from harness.benchmarks.figures import machine
from harness.benchmarks.measure import median
from harness.benchmarks.setting import Setting
from harness.benchmarks.timing import Contender
from harness.core.errors import ConfigError

OURS = {"train": ours.train, "extract": ours.extract, "augment": ours.augment}
PLAIN = {"train": plain.train, "extract": plain.extract, "augment": plain.augment}


def measure(
    what: str,
    changes: Sequence[str],
    device: torch.device,
    images: int = 1024,
    steps: int = 0,
    repeats: int = 3,
    with_reference: bool = False,
    workers: int | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Measure one of `OURS`.

    Args:
        changes: KEY=VALUE of the configuration. images: at most, of its training part.
        steps: batches a round; 0: 50 on a GPU, on a CPU 1 of training, 4 of extraction, 16 of
            augmentation. repeats: rounds after the one that warms up.
        with_reference: beside the plain pipeline. workers: of it; None: as many as are best.
        note: what a reader of the figures has to know of the machine.

    Returns:
        What `--output` writes.

    Raises:
        HarnessError: settings that cannot be had.
    """
    if repeats < 1 or images < 2 or steps < 0 or (workers is not None and workers < 0):
        raise ConfigError("bench needs 1 repeat and 2 images at least, and no negative numbers.")
    on_gpu = device.type == "cuda"
    steps = steps or (50 if on_gpu else {"train": 1, "extract": 4, "augment": 16}[what])
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(changes, device, images, Path(folder))
        contenders = [Contender("harness", OURS[what](setting, steps))]
        if with_reference:
            images_of = setting.plain(train=what != "extract")
            tried: dict[int, float] = {}
            if workers is None:
                trial = [i.tolist() for i in setting.drawn(12 if on_gpu else 6)]
                workers, tried = reference.best_workers(images_of, trial, device)
            told = {"workers": workers, "precision": "fp32", "memory_format": "NCHW"}
            if tried:
                told["loading"] = {str(k): round(v, 1) for k, v in tried.items()}
            kinds = ["fp32", "tf32"] if on_gpu and what != "augment" else ["fp32"]
            for kind in kinds:
                name = "reference" if kind == "fp32" else "reference_tf32"
                once = PLAIN[what](setting, images_of, steps, workers, kind)
                contenders.append(Contender(name, once, {**told, "precision": kind}))
        for repeat in range(repeats + 1):
            for contender in contenders:
                contender.measure(device, counts=repeat > 0)
        result: dict[str, Any] = {
            "what": what,
            "setting": setting.described() | ({"precision": "fp32"} if what == "augment" else {}),
            "steps": steps,
            "repeats": repeats,
            **{c.name: c.result() for c in contenders},
            "machine": machine(device),
            "note": note,
        }
    for other in contenders[1:]:
        pairs = zip(contenders[0].rates, other.rates, strict=True)
        key = other.name.replace("reference", "ratio")
        result[key] = round(median([ours / theirs for ours, theirs in pairs]), 2)
        efforts = (median(c.efforts) for c in (contenders[0], other))
        result[f"{key}_per_core"] = round(operator.truediv(*efforts), 2)
    return result
