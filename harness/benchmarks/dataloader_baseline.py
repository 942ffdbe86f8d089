"""The plain pipeline's rounds: a network, a loss and Adam behind a DataLoader."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.benchmarks import reference
from harness.benchmarks.setting import Setting
from harness.benchmarks.timing import Once, Round
from harness.core.precision import fp32_as
from harness.core.throughput import synchronized_time
from harness.experiment.stages import build_objective


def train(
    setting: Setting, plain: reference.PlainImages, steps: int, workers: int, precision: str
) -> Once:
    """Network, loss and Adam in a plain loop; batch norm over the whole batch."""
    backbone = setting.backbone().to(setting.device).train()
    objective = build_objective(setting.stage)
    objective.prepare(len(backbone.views), backbone.dim, setting.count)
    objective.to(setting.device)
    with torch.no_grad():
        setting.begin(objective, backbone)
    optimizer = torch.optim.Adam(
        [p for p in [*backbone.parameters(), *objective.parameters()] if p.requires_grad],
        lr=3.5e-4,
        weight_decay=5e-4,
    )
    labels = setting.labels.to(setting.device)

    def step(pixels: Tensor, indices: Tensor) -> None:
        loss = objective(backbone(pixels), labels[indices], indices)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.update()

    return _timed(setting, plain, steps, workers, precision, step)


def extract(
    setting: Setting, plain: reference.PlainImages, steps: int, workers: int, precision: str
) -> Once:
    backbone = setting.backbone().to(setting.device).eval()

    @torch.no_grad()
    def step(pixels: Tensor, indices: Tensor) -> None:
        F.normalize(backbone(pixels), dim=-1)

    return _timed(setting, plain, steps, workers, precision, step)


def augment(
    setting: Setting, plain: reference.PlainImages, steps: int, workers: int, precision: str
) -> Once:
    return _timed(setting, plain, steps, workers, precision, None)


def _timed(
    setting: Setting, plain: reference.PlainImages, steps: int, workers: int, precision: str,
    step: Callable[[Tensor, Tensor], None] | None,
) -> Once:  # fmt: skip
    """Clock `steps` batches once the first has come, which costs the start of the workers."""

    def once() -> Round:
        drawn = [indices.tolist() for indices in setting.drawn(steps + 1)]
        stream = reference.batches(plain, drawn, workers, setting.device)
        count, waited = 0, 0.0
        with fp32_as(precision):
            made = len(next(stream)[0])
            started = synchronized_time(setting.device)
            while True:
                asked = time.perf_counter()  # of the host: a GPU is not held up by looking
                batch = next(stream, None)
                waited += time.perf_counter() - asked
                if batch is None:
                    break
                if step is not None:
                    step(*batch)
                count += len(batch[0])
            seconds = synchronized_time(setting.device) - started
            # no network saw the first batch: only where there is none does it count as work
            return Round(count, seconds, waited, count if step else made + count)

    return once
