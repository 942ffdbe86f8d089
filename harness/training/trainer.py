"""Stages → epochs → steps: the one training loop that every method runs in.

No identity reaches this module: it sees pixels, cameras if the method declared them, and calls
`observe(labels)` and `test(backbone)`, which the caller closes over the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from harness.core.distributed.collectives import from_first, only_own, whole
from harness.core.errors import TrainingError
from harness.core.interfaces import (
    Backbone,
    Batch,
    Distiller,
    Objective,
    PseudoLabeler,
    PseudoLabels,
    UnlabelledSet,
)
from harness.core.precision import fp32_as, make_scaler
from harness.core.progress import Reporter
from harness.core.seeds import derive, generator
from harness.core.throughput import rate, synchronised
from harness.data.augment import normalise
from harness.data.augmentation_settings import make_augment
from harness.data.prefetcher import HostToDeviceCopy, Images, Prefetcher
from harness.data.samplers import SAMPLERS
from harness.training.compilation import compile_networks
from harness.training.extraction import extract
from harness.training.label_schedule import labellings, tested_epochs
from harness.training.optimizers import learning_rate, load_state, make_optimizer, set_rate
from harness.training.step import Step

Row = dict[str, Any]
COUNTS = ("clusters", "outliers")


@dataclass
class Parts:
    """What a stage is made of, built."""

    backbone: Backbone
    labeler: PseudoLabeler
    objective: Objective
    distiller: Distiller | None


@dataclass
class Trainer:
    """Trains one stage.

    Attributes:
        name: of the stage. config: of the stage. seed, device, precision: of the cell.
        observe: labels (N,) → cluster quality against the truth, for the record only.
        test: backbone → metrics on the test set.
        next_epoch: where to go on; set by `load_state_dict`.
    """

    name: str
    config: DictConfig
    parts: Parts
    data: UnlabelledSet
    device: torch.device
    precision: str
    reporter: Reporter
    observe: Callable[[Tensor], Mapping[str, float]]
    test: Callable[[Backbone], Mapping[str, float]]
    timings: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        train = self.config.train
        self.first_epoch = -int(train.warmup_epochs)
        self.last_epoch = int(train.epochs) - 1
        self.next_epoch = self.first_epoch
        every = int(self.config.evaluation.every)
        self.tested = tested_epochs(-self.first_epoch, int(train.epochs), every)
        self.labellings = labellings(train.label_every, int(train.epochs))
        self.labels: PseudoLabels | None = None
        self.augment = make_augment(self.config.images)
        backbone = self.parts.backbone
        self.parts.objective.prepare(len(backbone.views), backbone.dim, len(self.data))
        if self.parts.distiller is not None:
            self.parts.distiller.prepare(self.parts.objective)
        modules = [backbone, self.parts.objective, self.parts.distiller]
        self.trained = nn.ModuleList(m for m in modules if m is not None).to(self.device)
        self.trained.to(memory_format=torch.channels_last)
        compile_networks(self.trained, str(train.compile))
        self.host_to_device = HostToDeviceCopy(self.data.images, self.device)
        self.scaler = make_scaler(self.precision, self.device)
        batch, micro_batch = self.config.batch, train.get("micro_batch", "auto")
        self.step = Step(
            *(backbone, self.parts.objective, self.parts.distiller, self.trained),
            *(self.device, self.precision, self.scaler),
            batch=int(batch.identities) * int(batch.images),
            samples_per_bn=int(batch.samples_per_bn),
            micro_batch=0 if micro_batch == "auto" else int(micro_batch),
        )
        self._renew_optimizer()

    # ------------------------------------------------------------------------------- the epochs

    def epochs(self) -> Iterator[Row]:
        """Run the epochs that are left; yields a row for the history after each."""
        while self.next_epoch <= self.last_epoch:
            epoch = self.next_epoch
            started = time.perf_counter()
            if self.config.optimizer.reset_with_labels and self._due(epoch):
                self._renew_optimizer()
            row: Row = {"stage": self.name, "epoch": epoch, "lr": self._set_learning_rate(epoch)}
            labels, features = self._label(epoch, row)
            self._train(epoch, labels, features, row)
            self.next_epoch = epoch + 1
            if epoch in self.tested:
                with self._clock("test", row):
                    row.update(self.test(self.tested_network[1]))
            row["seconds"] = round(time.perf_counter() - started, 3)
            yield row

    def _renew_optimizer(self) -> None:
        networks = (m for m in self.trained.modules() if isinstance(m, Backbone))  # peers, too
        trunks = (p for network in networks for p in network.pretrained_parameters())
        self.optimizer = make_optimizer(self.config.optimizer, self.trained.parameters(), trunks)

    def _set_learning_rate(self, epoch: int) -> float:
        rate = learning_rate(self.config.optimizer, epoch - self.first_epoch)
        set_rate(self.optimizer, rate)
        return rate

    def _due(self, epoch: int) -> int:
        """How often the labeler is asked before an epoch; 0: the labels of the one before stay."""
        return 1 if epoch < 0 else self.labellings[epoch]

    def _label(self, epoch: int, row: Row) -> tuple[Tensor, Tensor]:
        """Pseudo-labels (N,) of the epoch, and the features (N, V, D) at its start; none (0, V, D)
        where labels stay and nobody looks at features.
        """
        parts, due = self.parts, self._due(epoch)
        features = parts.objective.features() if epoch >= 0 else None
        if not (due or parts.objective.reads_features or parts.distiller):
            network = parts.backbone
            features = torch.empty(0, len(network.views), network.dim, device=self.device)
        if features is None:
            with self._clock("extract", row):
                features, images = self._features(epoch)
            row["extract_images_per_second"] = rate(images, row["seconds_extract"])
        if due:
            with self._clock("label", row):
                self.reporter.phase(f"{self.name} {epoch}: labels")
                cameras = self.data.cameras if parts.labeler.uses_cameras else None
                self.labels = from_first(
                    lambda: [parts.labeler.label(features, cameras) for _ in range(due)][-1]
                )
        result = self.labels
        assert result is not None, "the first epoch makes labels, and checkpoints keep them"
        for key in COUNTS:
            row[key] = result.stats.get(key, getattr(result, key))
        if due:
            row.update({f"label_{k}": v for k, v in result.stats.items() if k not in row})
        truth = self.observe(result.labels)  # counts of images of unknown identity stay ours
        row.update({key: value for key, value in truth.items() if key not in row})
        if result.clusters == 0:
            raise TrainingError(
                f"{self.name}, epoch {epoch}: no clusters; all {len(result.labels)} images are "
                f"outliers ({parts.labeler.describe()}).",
                f"{parts.labeler.hint}, or start from better weights. "
                "The last checkpoint, if there is one, is kept.",
            )
        return result.labels, features

    def _features(self, epoch: int) -> tuple[Tensor, int]:
        """Features (N, V, D), L2-normalised per view, the mean of several networks' if several
        label the epoch; and how many images that took.
        """
        distiller = self.parts.distiller
        networks = (distiller.labeled_by if distiller else ()) or (self.parts.backbone,)
        if epoch < 0:
            if distiller is None or distiller.teacher is None:
                raise TrainingError(f"Stage '{self.name}' has warm-up epochs but no teacher.")
            networks = (distiller.teacher,)
        total = None
        for network in networks:
            progress = self.reporter.phase(f"{self.name} {epoch}: features")
            features = extract(
                network, self.data.images, self.device, self.precision, progress=progress
            )
            total = features if total is None else total.add_(features)
        assert total is not None
        images = len(networks) * len(self.data)
        return (total if len(networks) == 1 else F.normalize(total, dim=-1)), images

    @property
    def tested_network(self) -> tuple[str, Backbone]:
        """What records call the network that is tested, and the network."""
        distiller = self.parts.distiller
        return (distiller.tested if distiller else None) or ("student", self.parts.backbone)

    def _train(self, epoch: int, labels: Tensor, features: Tensor, row: Row) -> None:
        """One epoch's iterations."""
        parts, settings = self.parts, self.config.train
        frozen = epoch < 0
        batch = self.config.batch
        iterations = settings.iterations
        if iterations == "auto":  # as many whole batches as the labelled images fill
            labelled = int((labels >= 0).sum())
            iterations = max(1, labelled // (int(batch.identities) * int(batch.images)))
        iterations = int(iterations) * (int(settings.warmup_iterations) if frozen else 1)
        try:
            sampler = SAMPLERS[str(batch.sampler)](
                labels,
                self.data.cameras,
                int(batch.identities),
                int(batch.images),
                generator(self.seed, self.name, epoch, "sampler"),
            )
        except TrainingError as error:
            raise TrainingError(
                f"{self.name}, epoch {epoch}: {error.cause} ({parts.labeler.describe()}; "
                f"{row['outliers']} outliers.)",
                f"{parts.labeler.hint}, or lower batch.identities. "
                "The last checkpoint, if there is one, is kept.",
            ) from error
        torch.manual_seed(derive(self.seed, self.name, epoch, "torch"))  # for dropout in parts
        device_labels = labels.to(self.device)
        cameras = None
        if parts.objective.uses_cameras and self.data.cameras is not None:
            cameras = self.data.cameras.to(self.device)
        with torch.no_grad():
            parts.objective.start_epoch(features, device_labels, cameras)
            if parts.distiller is not None:
                parts.distiller.relabel(features, device_labels, cameras)
        del features
        self.step.start_epoch()
        self.trained.train()
        if parts.distiller is not None:
            parts.distiller.start_epoch(epoch)
        progress = self.reporter.phase(f"{self.name} {epoch}: {row['clusters']} clusters")
        total = torch.zeros((), device=self.device)
        drawn = sampler.batches(iterations)
        feed = Prefetcher(self._batches(epoch, drawn, device_labels), self.device)
        with self._clock("train", row), fp32_as(self.precision), feed:  # gradients too
            for step, inputs in enumerate(feed, start=1):
                total += self._step(inputs, frozen)
                progress(step, iterations)
                if step % 50 == 0 and not torch.isfinite(total):
                    break
            mean = total.item() / iterations
        if not torch.isfinite(total):
            raise TrainingError(
                f"{self.name}, epoch {epoch}: the loss is not finite.",
                "Lower optimizer.lr, or use train.precision=fp32. "
                "The last checkpoint, if there is one, is kept.",
            )
        row["loss"], row["iterations"] = mean, iterations
        images_done = iterations * int(batch.identities) * int(batch.images)
        row["images_per_second"] = rate(images_done, row["seconds_train"])
        row["waiting_seconds"] = round(feed.waited, 3)  # for data, of those of training

    def _batches(self, epoch: int, drawn: Iterator[Tensor], labels: Tensor) -> Iterator[Batch]:
        """What steps see of the images (B,) that were drawn for them."""
        distiller = self.parts.distiller
        copies = distiller.augmentations if distiller is not None else 1
        # the first copy's draws are the same whether there are others or not
        purposes = [("augment",), *(("augment", copy) for copy in range(1, copies))]
        draws = [generator(self.seed, self.name, epoch, *purpose) for purpose in purposes]
        made = only_own if distiller is None or distiller.keeps_order else whole

        def augmented(source: Images, rows: Tensor, draw: torch.Generator) -> Tensor:
            parameters = self.augment.draw(len(rows), draw)
            return made(
                len(rows),
                lambda own: self.augment.apply(
                    source, parameters[own], indices=rows[own], device=self.device
                ),
            )

        for indices in drawn:
            source, rows = self.host_to_device.rows(indices)
            images = [augmented(source, rows, draw) for draw in draws]
            plain = None
            if distiller is not None and distiller.needs_plain:
                plain = normalise(source[rows.numpy()], device=self.device)
            there = indices.to(self.device)
            yield Batch(images[0], labels[there], there, tuple(images[1:]), plain)

    def _step(self, batch: Batch, frozen: bool) -> Tensor:
        """One optimiser step; returns the loss, detached."""
        return self.step(batch, self.optimizer, frozen)

    @property
    def seed(self) -> int:
        return int(self.config.seed)

    def _clock(self, phase: str, row: Row) -> _Clock:
        return _Clock(phase, row, self.timings, self.device)

    # ------------------------------------------------------------------------------- to resume

    def state_dict(self) -> dict[str, Any]:
        """All that the next epoch depends on, tensors and numbers only."""
        return {
            "next_epoch": self.next_epoch,
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "labeler": self.parts.labeler.state_dict(),
            "labels": self._kept_labels(),
            "timings": dict(self.timings),
        }

    def _kept_labels(self) -> dict[str, Any] | None:
        """The labels in force and their counts, for an epoch that makes none of its own."""
        if self.labels is None:
            return None
        counts = {k: int(self.labels.stats.get(k, getattr(self.labels, k))) for k in COUNTS}
        return {"labels": self.labels.labels, **counts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.trained.load_state_dict(state["trained"])
        load_state(self.optimizer, state["optimizer"])
        if state.get("scaler"):  # of fp16 alone
            self.scaler.load_state_dict(state["scaler"])
        if "labeler" in state:  # checkpoints of the first version lack it
            self.parts.labeler.load_state_dict(state["labeler"])
        if state.get("labels") is not None:
            kept = dict(state["labels"])
            self.labels = PseudoLabels(kept.pop("labels"), kept)
        self.next_epoch = int(state["next_epoch"])
        self.timings.update(state["timings"])


class _Clock:
    """Adds the wall seconds of a phase to the row and to the stage's totals."""

    def __init__(
        self, phase: str, row: Row, totals: dict[str, float], device: torch.device
    ) -> None:
        self.phase, self.row, self.totals, self.device = phase, row, totals, device

    def __enter__(self) -> None:
        self.started = synchronised(self.device)

    def __exit__(self, *_: object) -> None:
        seconds = synchronised(self.device) - self.started
        self.row[f"seconds_{self.phase}"] = round(seconds, 3)
        self.totals[self.phase] = self.totals.get(self.phase, 0.0) + seconds
