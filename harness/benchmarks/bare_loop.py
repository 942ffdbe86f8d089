"""The bare loop: the network, the loss and the optimizer on one batch that is there already.

It has no sampler, augmentation, prefetching or checks. No training loop of the same network can be
faster, so the ratio of the harness to it shows what all of that costs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from harness.benchmarks.harness_implementation import make_bench_trainer
from harness.benchmarks.timing import Round
from harness.benchmarks.workload import Workload
from harness.core.precision import arithmetic, fp32_as
from harness.core.throughput import synchronized_time
from harness.data.augment import normalize
from harness.data.prefetcher import ImageReader
from harness.training.extraction import BATCH


def bare_train(workload: Workload, steps: int) -> Callable[[], Round]:
    """Optimizer steps on one batch."""
    device, precision = workload.device, workload.precision
    trainer = make_bench_trainer(workload)
    parts, optimizer, scaler = trainer.components, trainer.optimizer, trainer.scaler
    backbone, objective, distiller = parts.backbone, parts.objective, parts.distiller
    (batch,) = trainer.batch_maker.make(0, iter(workload.drawn(1)), workload.labels.to(device), 1)

    def once() -> Round:
        started = synchronized_time(device)
        with fp32_as(precision):
            for _ in range(steps):
                optimizer.zero_grad(set_to_none=True)
                with arithmetic(precision, device):
                    embeddings = backbone(batch.images)
                    extra = None
                    if distiller is not None:
                        extra = distiller(embeddings.float(), batch, objective)
                loss = objective(embeddings.float(), batch.labels, batch.indices)
                scaler.scale(loss if extra is None else loss + extra).backward()
                scaler.step(optimizer)
                scaler.update()
                objective.update()
                if distiller is not None:
                    distiller.step(backbone, objective)
        return Round(steps * workload.batch, synchronized_time(device) - started)

    return once


def bare_extract(workload: Workload, steps: int) -> Callable[[], Round]:
    """Forward passes of one batch, of the size that extraction uses."""
    device, precision = workload.device, workload.precision
    backbone = workload.backbone().to(device).to(memory_format=torch.channels_last).eval()
    reader = ImageReader(workload.image_cache, device)
    images = normalize(
        reader.span(0, min(BATCH, workload.count)), backbone.preprocessing, device=device
    )
    passes = -(-steps * workload.batch // len(images))

    @torch.no_grad()
    def once() -> Round:
        started = synchronized_time(device)
        for _ in range(passes):
            with arithmetic(precision, device):
                backbone(images)
        return Round(passes * len(images), synchronized_time(device) - started)

    return once
