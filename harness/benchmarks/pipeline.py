"""`harness bench train | extract | augment`: images per second of the pipeline.

Training and extraction alternate with the bare loop, which shows how much faster they could be.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness.benchmarks.bare_loop import bare_extract, bare_train
from harness.benchmarks.dataloader_baseline import DecodedImages, baseline, best_workers
from harness.benchmarks.harness_implementation import augment, extract, train
from harness.benchmarks.timing import USUAL, Bounds, Candidate, built_when_run, compare
from harness.benchmarks.workload import Workload
from harness.core.host_memory import keep_freed_memory

ROUNDS = {"train": train, "extract": extract, "augment": augment}
BARE = {"train": bare_train, "extract": bare_extract}
#: batches of a round on a CPU
CPU_STEPS = {"train": 1, "extract": 4, "augment": 16}


def measure(
    what: str, overrides: Sequence[str], device: torch.device, images: int = 1024,
    steps: int | None = None, repeats: int = 3, with_baseline: bool = False,
    workers: int | None = None, bounds: Bounds = USUAL,
) -> dict[str, Any]:  # fmt: skip
    """Time one of `ROUNDS`, alternating with the bare loop and, on request, the baseline.

    Candidates are `harness`, `bare`, `baseline` and, on a GPU, `baseline_tf32`.

    Args:
        overrides: KEY=VALUE of the configuration.
        images: use at most this many training images.
        steps: batches of a round; None: 50 on a GPU, `CPU_STEPS` on a CPU.
        workers: processes of the DataLoader; None: the number that is fastest.
    """
    on_gpu = device.type == "cuda"
    if not on_gpu:
        keep_freed_memory()
    steps = steps or (50 if on_gpu else CPU_STEPS[what])
    with tempfile.TemporaryDirectory() as folder:
        workload = Workload(overrides, device, images, Path(folder))
        rounds = {"harness": ROUNDS[what]} | ({"bare": BARE[what]} if what in BARE else {})
        candidates = [
            Candidate(name, built_when_run(partial(make, workload, steps)))
            for name, make in rounds.items()
        ]
        if with_baseline:
            files = DecodedImages(workload, augmented=what != "extract")
            if workers is None:
                workers = best_workers(files, workload, batches=12 if on_gpu else 6)
            precisions = ["fp32", "tf32"] if on_gpu and what != "augment" else ["fp32"]
            for precision in precisions:
                name = "baseline" if precision == "fp32" else f"baseline_{precision}"
                once = built_when_run(
                    partial(baseline, what, workload, files, steps, workers, precision)
                )
                about = {"workers": workers, "precision": precision, "memory_format": "NCHW"}
                candidates.append(Candidate(name, once, about))
        setting = workload.describe() | {"steps": steps}
        if what == "augment":
            setting["precision"] = "fp32"
        return compare(what, setting, candidates, repeats, device, bounds)
