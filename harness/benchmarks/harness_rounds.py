"""The harness's own rounds: the very training steps of a run, its extraction, its batches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.benchmarks.setting import Setting
from harness.benchmarks.timing import Once, Round
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
from harness.training.trainer import Parts, Trainer


def train(setting: Setting, steps: int) -> Once:
    """The very steps of a run."""
    config = setting.stage.config
    backbone = setting.backbone()
    set_samples_per_bn(backbone, int(config.batch.samples_per_bn))
    backbone.to(setting.device).to(memory_format=torch.channels_last)
    trainer = Trainer(
        name=setting.stage.name,
        config=config,
        parts=Parts(
            backbone,
            build_labeler(setting.stage),
            build_objective(setting.stage),
            build_distiller(setting.stage, None, backbone),
        ),
        data=UnlabelledSet(setting.image_cache),
        device=setting.device,
        precision=setting.precision,
        reporter=Reporter(),
        observe=lambda labels: {},
        test=lambda network: {},
    )
    with torch.no_grad():
        setting.begin(trainer.parts.objective, backbone)
    trainer.trained.train()
    labels, rounds = setting.labels.to(setting.device), iter(range(1_000_000))

    def once() -> Round:
        feed = Prefetcher(
            trainer._batches(next(rounds), iter(setting.drawn(steps)), labels), setting.device
        )
        started = synchronized_time(setting.device)
        with fp32_as(setting.precision), feed:
            for batch in feed:
                trainer._step(batch, False)
        seconds = synchronized_time(setting.device) - started
        return Round(steps * setting.batch, seconds, feed.waited)

    return once


def extract(setting: Setting, steps: int) -> Once:
    """Features of as many images as `steps` batches hold, over and over if there are fewer."""
    backbone = setting.backbone().to(setting.device).to(memory_format=torch.channels_last)
    spans = _spans(setting, steps)

    def once() -> Round:
        started = synchronized_time(setting.device)
        for count in spans:
            extraction.extract(
                backbone, setting.image_cache[:count], setting.device, setting.precision
            )
        return Round(sum(spans), synchronized_time(setting.device) - started)

    return once


def augment(setting: Setting, steps: int) -> Once:
    """Augmented batches on the device, and no network."""
    augment, reader = (
        make_augment(setting.config.images),
        ImageReader(setting.image_cache, setting.device),
    )
    draws = generator(0, "bench augment")

    def made() -> Iterator[Tensor]:
        for indices in setting.drawn(steps):
            source, rows = reader.rows(indices)
            parameters = augment.draw(len(indices), draws)
            yield augment.apply(source, parameters, indices=rows, device=setting.device)

    def once() -> Round:
        started = synchronized_time(setting.device)
        count = sum(len(batch) for batch in made())
        return Round(count, synchronized_time(setting.device) - started)

    return once


def _spans(setting: Setting, steps: int) -> list[int]:
    """Of how many images, one after the other, to take `steps` batches."""
    wanted, spans = steps * setting.batch, []
    while wanted > 0:
        spans.append(min(setting.count, wanted))
        wanted -= spans[-1]
    return spans
