"""Rounds of the harness implementation: its training steps, extraction and augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import torch
from omegaconf import DictConfig
from torch import Tensor

from harness.benchmarks.timing import Round
from harness.benchmarks.workload import Workload
from harness.components.backbones import set_samples_per_bn
from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone, LabelledSet, UnlabelledSet
from harness.core.precision import fp32_as
from harness.core.progress import Reporter
from harness.core.seeds import generator
from harness.core.throughput import synchronized_time
from harness.data.augmentation_settings import make_augment
from harness.data.prefetcher import ImageReader, Prefetcher
from harness.experiment.finished_networks import without_weights
from harness.experiment.labelled_source import is_joint, reads_identities
from harness.experiment.stages import (
    Stage,
    build_backbone,
    build_distiller,
    build_labeler,
    build_objective,
    preprocessing,
)
from harness.training import extraction
from harness.training.trainer import Components, Trainer


def make_network(config: DictConfig, device: torch.device) -> Backbone:
    """The network of a stage's configuration, with random weights."""
    torch.manual_seed(0)
    backbone, batch = build_backbone(without_weights(config.backbone)), config.batch
    images = int(batch.identities) * int(batch.images)
    set_samples_per_bn(backbone, int(batch.samples_per_bn), images)
    return backbone.to(device).to(memory_format=torch.channels_last)


def make_trainer(
    stage: Stage,
    data: UnlabelledSet,
    device: torch.device,
    precision: str,
    source: LabelledSet | None = None,
) -> Trainer:
    """The trainer of a stage; its network and its teacher, if it has one, have random weights.

    source: the labeled source of stages that train on one.
    """
    backbone = make_network(stage.config, device)
    follows = stage.teacher_stage or stage.teacher_run
    teacher = make_network(stage.config, device) if follows else None
    distiller = build_distiller(stage, teacher, backbone)
    identities = None
    if source is not None and reads_identities(stage):
        data, identities = source, source.identities
    labeler, objective = build_labeler(stage, identities), build_objective(stage)
    return Trainer(
        name=stage.name, config=stage.config, device=device, precision=precision,
        components=Components(backbone, labeler, objective, distiller),
        data=data, source=source if is_joint(stage) else None, reporter=Reporter(),
        cluster_metrics=lambda labels: {}, test=lambda network: {},
    )  # fmt: skip


def make_bench_trainer(workload: Workload) -> Trainer:
    """The trainer of the workload's stage, in an epoch of random features.

    Raises:
        ConfigError: the stage trains on a labeled source, of which a workload has none.
    """
    if is_joint(workload.stage) or reads_identities(workload.stage):
        name = workload.config.method.name
        raise ConfigError(f"bench train has no labeled source, which {name} trains on.",
                          "harness bench methods times such methods.")  # fmt: skip
    data = UnlabelledSet(workload.image_cache, workload.cameras)
    trainer = make_trainer(workload.stage, data, workload.device, workload.precision)
    features = workload.features(trainer.components.backbone)
    trainer.start_epoch(0, workload.labels.to(workload.device), features)
    return trainer


def training_steps(
    trainer: Trainer, steps: int, drawn: Iterator[Tensor], labels: Tensor, epoch: int
) -> tuple[float, float]:
    """Compute steps as in the middle of an epoch: the clock starts when the first batch is there.

    Meanwhile as many other batches are made as there are steps.

    Args:
        drawn: batches (B,), one more than there are steps.

    Returns:
        the seconds of the steps, and the share of them spent waiting for data.
    """
    made = trainer.batch_maker.make(epoch, drawn, labels, steps + 1)
    batches = Prefetcher(made, trainer.device)
    started, done = 0.0, 0
    with fp32_as(trainer.precision), batches:
        for batch in batches:
            started = started or synchronized_time(trainer.device)
            trainer.train_step(batch, False)
            done += 1
            if done == steps:
                break
        seconds = synchronized_time(trainer.device) - started
    return seconds, max(0.0, batches.waited - batches.waited_first) / seconds


def train(workload: Workload, steps: int) -> Callable[[], Round]:
    """Training steps, computed by the `Trainer` of a run."""
    trainer = make_bench_trainer(workload)
    labels, epochs = workload.labels.to(workload.device), count()

    def once() -> Round:
        drawn = iter(workload.drawn(steps + 1))
        seconds, waiting = training_steps(trainer, steps, drawn, labels, next(epochs))
        return Round(steps * workload.batch, seconds, {"waiting": waiting})

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
    augmentation = make_augment(
        workload.config.images, preprocessing(workload.stage.config.backbone)
    )
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
