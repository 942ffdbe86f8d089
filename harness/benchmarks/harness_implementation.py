"""Rounds of the harness implementation: its training steps, extraction and augmentation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import torch

from harness.benchmarks.timing import Round
from harness.benchmarks.workload import Workload
from harness.components.backbones import set_samples_per_bn
from harness.core.interfaces import UnlabelledSet
from harness.core.precision import fp32_as
from harness.core.progress import Reporter
from harness.core.seeds import generator
from harness.core.throughput import synchronized_time
from harness.data.augmentation_settings import make_augment
from harness.data.prefetcher import ImageReader, Prefetcher
from harness.experiment.stages import build_distiller, build_labeler, build_objective
from harness.training import extraction
from harness.training.trainer import Components, Trainer


def train(workload: Workload, steps: int) -> Callable[[], Round]:
    """Training steps, computed by the `Trainer` of a run."""
    stage, device = workload.stage, workload.device
    backbone = workload.backbone()
    set_samples_per_bn(backbone, int(stage.config.batch.samples_per_bn))
    backbone.to(device).to(memory_format=torch.channels_last)
    distiller = build_distiller(stage, None, backbone)
    trainer = Trainer(
        name=stage.name, config=stage.config, device=device, precision=workload.precision,
        components=Components(backbone, build_labeler(stage), build_objective(stage), distiller),
        data=UnlabelledSet(workload.image_cache), reporter=Reporter(),
        cluster_metrics=lambda labels: {}, test=lambda network: {},
    )  # fmt: skip
    workload.start_epoch(trainer.components.objective, backbone)
    trainer.trained.train()
    labels, epochs = workload.labels.to(device), count()

    def once() -> Round:
        made = trainer._batches(next(epochs), iter(workload.drawn(steps)), labels)
        batches = Prefetcher(made, device)
        started = synchronized_time(device)
        with fp32_as(workload.precision), batches:
            for batch in batches:
                trainer._step(batch, False)
        seconds = synchronized_time(device) - started
        return Round(steps * workload.batch, seconds, {"waiting": batches.waited / seconds})

    return once


def extract(workload: Workload, steps: int) -> Callable[[], Round]:
    """Features of as many images as `steps` batches hold, over and over if there are fewer."""
    device = workload.device
    backbone = workload.backbone().to(device).to(memory_format=torch.channels_last)
    passes, rest = divmod(steps * workload.batch, workload.count)
    counts = [*[workload.count] * passes, *([rest] if rest else [])]

    def once() -> Round:
        started = synchronized_time(device)
        for images in counts:
            extraction.extract(backbone, workload.image_cache[:images], device, workload.precision)
        return Round(sum(counts), synchronized_time(device) - started)

    return once


def augment(workload: Workload, steps: int) -> Callable[[], Round]:
    """Augmented batches on the device, without a network."""
    device = workload.device
    augmentation = make_augment(workload.config.images)
    reader = ImageReader(workload.image_cache, device)
    draws = generator(0, "bench augment")

    def once() -> Round:
        started = synchronized_time(device)
        for indices in workload.drawn(steps):
            source, rows = reader.rows(indices)
            parameters = augmentation.draw(len(indices), draws)
            augmentation.apply(source, parameters, indices=rows, device=device)
        return Round(steps * workload.batch, synchronized_time(device) - started)

    return once
