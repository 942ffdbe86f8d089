"""The training loop of every method: a stage's epochs, each of them labels and then steps.

Training sees no identities: it gets images, cameras if the method declares them, and two functions
that return numbers for the record, `cluster_metrics` and `test`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

from harness.components.backbones.batchnorm import separate_domains
from harness.core.distributed.collectives import broadcast_from_first
from harness.core.distributed.processes import is_distributed
from harness.core.errors import TrainingError, say_once
from harness.core.interfaces import (
    Backbone,
    Batch,
    Distiller,
    LabelledSet,
    Objective,
    PseudoLabeler,
    PseudoLabels,
    UnlabelledSet,
)
from harness.core.load import LoadMeter
from harness.core.precision import fp32_as, make_scaler
from harness.core.progress import Reporter
from harness.core.seeds import derive, generator
from harness.core.throughput import rate, synchronized_time
from harness.data.prefetcher import Prefetcher
from harness.data.samplers import SAMPLERS
from harness.training.batches import BatchMaker
from harness.training.compilation import compile_networks
from harness.training.extraction import extract
from harness.training.label_schedule import label_schedule, tested_epochs
from harness.training.optimizers import learning_rate, load_state, make_optimizer, set_rate
from harness.training.step import Step

Row = dict[str, Any]
COUNTS = ("clusters", "outliers")
#: share of the processor that other work may take before a run on the CPU is told to use less of it
BUSY = 0.25
_KEPT = "The last checkpoint, if there is one, is kept."


@dataclass
class Components:
    """The components of a stage."""

    backbone: Backbone
    labeler: PseudoLabeler
    objective: Objective
    distiller: Distiller | None


@dataclass
class Trainer:
    """Trains one stage of this `name` and `config`.

    cluster_metrics: pseudo-labels (N,) → cluster quality, for the record only.
    test: backbone → metrics on the test set.
    source: the labeled source of joint training: each batch begins with as many of its images.
    timings: seconds per phase (extract, label, train, test), summed over epochs.
    next_epoch: the first epoch that `epochs` runs.
    """

    name: str
    config: DictConfig
    components: Components
    data: UnlabelledSet
    device: torch.device
    precision: str
    reporter: Reporter
    cluster_metrics: Callable[[Tensor], Mapping[str, float]]
    test: Callable[[Backbone], Mapping[str, float]]
    source: LabelledSet | None = None
    timings: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        train, batch = self.config.train, self.config.batch
        self.first_epoch = -int(train.warmup_epochs)
        self.last_epoch = int(train.epochs) - 1
        self.next_epoch = self.first_epoch
        every = int(self.config.evaluation.every)
        self.tested = tested_epochs(-self.first_epoch, int(train.epochs), every)
        self.label_schedule = label_schedule(train.label_every, int(train.epochs))
        self.labels: PseudoLabels | None = None
        self.batch_size = int(batch.identities) * int(batch.images)
        backbone, objective = self.components.backbone, self.components.objective
        distiller = self.components.distiller
        if self.source is not None:
            objective.source_classes = int(self.source.identities.max()) + 1
        objective.prepare(len(backbone.views), backbone.dim, len(self.data))
        if distiller is not None:
            distiller.prepare(objective)
        if self.source is not None and batch.domain_norms:
            separate_domains(backbone)
        modules = [backbone, objective, distiller]
        self.trained = nn.ModuleList(m for m in modules if m is not None).to(self.device)
        self.trained.to(memory_format=torch.channels_last)
        compile_networks(self.trained, str(train.compile))
        self.batch_maker = BatchMaker(
            *(self.name, self.config, self.data, self.source),
            *(backbone.preprocessing, distiller, self.device),
        )
        self.scaler = make_scaler(self.precision, self.device)
        micro_batch = 0 if train.micro_batch == "auto" else int(train.micro_batch)
        self.step = Step(
            *(backbone, objective, distiller, self.trained),
            *(self.device, self.precision, self.scaler),
            *(self.batch_size, int(batch.samples_per_bn), micro_batch),
            clip=self.config.optimizer.clip,
        )
        self._reset_optimizer()

    @property
    def tested_network(self) -> tuple[str, Backbone]:
        """The network that is tested, after its name in records."""
        distiller = self.components.distiller
        return (distiller.tested if distiller else None) or ("student", self.components.backbone)

    def epochs(self) -> Iterator[Row]:
        """Run the remaining epochs; yields each one's row of the history."""
        while self.next_epoch <= self.last_epoch:
            epoch = self.next_epoch
            started = time.perf_counter()
            if self.config.optimizer.reset_with_labels and self.labelings(epoch):
                self._reset_optimizer()
            epochs = self.last_epoch - self.first_epoch + 1
            lr = learning_rate(self.config.optimizer, epoch - self.first_epoch, epochs)
            set_rate(self.optimizer, lr)
            if self.source is not None and epoch == self.first_epoch:
                self._start_source(self.source)
            row: Row = {"stage": self.name, "epoch": epoch, "lr": lr}
            features, relabeling = self._features(epoch, row)
            labels = self._label(epoch, features, row)
            iterations = self.iterations(labels, frozen=epoch < 0)
            drawn = self._drawn(epoch, labels, iterations, row)
            # of the components' own draws and of dropout
            torch.manual_seed(derive(self.config.seed, self.name, epoch, "torch"))
            labels = labels.to(self.device)
            self.start_epoch(epoch, labels, features, relabeling)
            del features, relabeling  # up to gigabytes, which the iterations do not need
            self._train(epoch, labels, drawn, iterations, row)
            self.next_epoch = epoch + 1
            if epoch in self.tested:
                with self._timed("test", row):
                    row.update(self.test(self.tested_network[1]))
            row["seconds"] = round(time.perf_counter() - started, 3)
            yield row

    @torch.no_grad()
    def _start_source(self, source: LabelledSet) -> None:
        """Give the objective the source's features, of the network that training starts from."""
        progress = self.reporter.phase(f"{self.name}: features of the source")
        where = source.images, self.device, self.precision
        features = extract(self.components.backbone, *where, progress=progress)
        self.components.objective.start_source(features, source.identities.to(self.device))

    def _reset_optimizer(self) -> None:
        networks = (m for m in self.trained.modules() if isinstance(m, Backbone))  # and peers
        settings, parameters = self.config.optimizer, self.trained.parameters()
        self.optimizer = make_optimizer(settings, parameters, networks)

    def labelings(self, epoch: int) -> int:
        """How often the labeler runs before an epoch; 0 keeps the labels of the previous one."""
        return 1 if epoch < 0 else self.label_schedule[epoch]

    @contextlib.contextmanager
    def _timed(self, phase: str, row: Row) -> Iterator[None]:
        """Add the wall time of a phase to the row and to the stage's totals."""
        started = synchronized_time(self.device)
        yield
        seconds = synchronized_time(self.device) - started
        row[f"seconds_{phase}"] = round(seconds, 3)
        self.timings[phase] = self.timings.get(phase, 0.0) + seconds

    def _label(self, epoch: int, features: Tensor, row: Row) -> Tensor:
        """The epoch's pseudo-labels (N,), made from features (N, V, D) or kept."""
        labeler, due = self.components.labeler, self.labelings(epoch)
        if due:
            with self._timed("label", row):
                self.reporter.phase(f"{self.name} {epoch}: labels")
                cameras = self.data.cameras if labeler.uses_cameras else None
                self.labels = broadcast_from_first(
                    lambda: [labeler.label(features, cameras) for _ in range(due)][-1]
                )
        result = self.labels
        assert result is not None, "the first epoch makes labels, and checkpoints keep them"
        for key in COUNTS:
            row[key] = result.stats.get(key, getattr(result, key))
        if due:
            row.update({f"label_{k}": v for k, v in result.stats.items() if k not in row})
        # the labeler's own counts include images of unknown identity
        quality = self.cluster_metrics(result.labels)
        row.update({key: value for key, value in quality.items() if key not in row})
        if result.clusters == 0:
            raise TrainingError(
                f"{self.name}, epoch {epoch}: no clusters; all {len(result.labels)} images are "
                f"outliers ({labeler.describe()}).",
                f"{labeler.hint(result)} Or start from better weights. {_KEPT}",
            )
        return result.labels

    def _features(self, epoch: int, row: Row) -> tuple[Tensor, Tensor]:
        """The features that an epoch starts with, and those for `Distiller.relabel`.

        Both are (N, V, D), L2-normalized per view, and often the same. The first ones come from the
        objective's memory or are extracted, as the mean of several networks' if several label the
        epoch; they are empty (0, V, D) where the labels stay and no component reads them.
        """
        networks, labeling = self.extracted_by(epoch), self._labeled_by(epoch)
        made: dict[Backbone, Tensor] = {}
        if networks:
            with self._timed("extract", row):
                for network in networks:
                    progress = self.reporter.phase(f"{self.name} {epoch}: features")
                    where = self.data.images, self.device, self.precision
                    made[network] = extract(network, *where, progress=progress)
            images = len(networks) * len(self.data)
            row["extract_images_per_second"] = rate(images, row["seconds_extract"])
        if labeling:
            features = made[labeling[0]]
            for network in labeling[1:]:
                features = features + made[network]
            features = features if len(labeling) == 1 else F.normalize(features, dim=-1)
        else:
            kept = self.components.objective.features() if self._reads_features(epoch) else None
            if kept is None:
                network = self.components.backbone
                kept = torch.empty(0, len(network.views), network.dim, device=self.device)
            features = kept
        relabeling = self._relabeled_by
        return features, features if relabeling is None else made[relabeling]

    def extracted_by(self, epoch: int) -> tuple[Backbone, ...]:
        """The networks that extract features before an epoch, each once; () if none does.

        Raises TrainingError: the epoch needs a teacher, and there is none.
        """
        labeling, relabeling = self._labeled_by(epoch), self._relabeled_by
        extra = () if relabeling is None or relabeling in labeling else (relabeling,)
        return (*labeling, *extra)

    @property
    def _relabeled_by(self) -> Backbone | None:
        distiller = self.components.distiller
        return None if distiller is None else distiller.relabeled_by

    def _labeled_by(self, epoch: int) -> tuple[Backbone, ...]:
        """The networks whose mean features start an epoch; () if those are kept or not needed."""
        distiller, objective = self.components.distiller, self.components.objective
        if epoch < 0:
            if distiller is None or distiller.teacher is None:
                raise TrainingError(f"Stage '{self.name}' has warm-up epochs but no teacher.")
            return (distiller.teacher,)
        if not self._reads_features(epoch) or objective.features() is not None:
            return ()
        return (distiller.labeled_by if distiller else ()) or (self.components.backbone,)

    def _reads_features(self, epoch: int) -> bool:
        """Whether a component needs the features at the start of an epoch."""
        objective, distiller = self.components.objective, self.components.distiller
        relabels = (
            distiller is not None
            and type(distiller).relabel is not Distiller.relabel
            and distiller.relabeled_by is None
        )
        return bool(self.labelings(epoch)) or objective.reads_features or relabels

    def _train(
        self, epoch: int, labels: Tensor, drawn: Iterator[Tensor], iterations: int, row: Row
    ) -> None:
        """The epoch's iterations, on labels (N,) and the image indices (B,) of each batch."""
        frozen = epoch < 0
        progress = self.reporter.phase(f"{self.name} {epoch}: {row['clusters']} clusters")
        total = torch.zeros((), device=self.device)
        batches = Prefetcher(self.batch_maker.make(epoch, drawn, labels, iterations), self.device)
        load = LoadMeter()
        with self._timed("train", row), fp32_as(self.precision), batches:  # gradients too
            for step, batch in enumerate(batches, start=1):
                done = 0 if frozen else epoch * iterations + step - 1
                self.components.objective.progress = done / (iterations * (self.last_epoch + 1))
                total += self.train_step(batch, frozen)
                progress(step, iterations)
                if step % 50 == 0 and not torch.isfinite(total):
                    break
            mean = total.item() / iterations
        if not torch.isfinite(total):
            raise TrainingError(
                f"{self.name}, epoch {epoch}: the loss is not finite.",
                f"Lower optimizer.lr, or use train.precision=fp32. {_KEPT}",
            )
        row["loss"], row["iterations"] = mean, iterations
        row["images_per_second"] = rate(iterations * self.batch_size, row["seconds_train"])
        row["waiting_seconds"] = round(batches.waited, 3)  # for data, part of seconds_train
        others = None if is_distributed() else load.read()  # other processes of the run are no load
        if others is not None:
            row["cpu_share"] = round(1.0 - others.total, 3)
            if self.device.type == "cpu" and others.total > BUSY and torch.get_num_threads() > 1:
                say_once(
                    f"other work takes more than {BUSY:.0%} of the processor; fewer threads can be "
                    "faster then (threads=N), because a convolution waits for its slowest thread"
                )

    def iterations(self, labels: Tensor, frozen: bool) -> int:
        """The iterations of an epoch with these labels (N,); `frozen`: a warm-up epoch."""
        settings = self.config.train
        iterations = settings.iterations
        if iterations == "auto":  # as many whole batches as the labeled images fill
            iterations = max(1, int((labels >= 0).sum()) // self.batch_size)
        return int(iterations) * (int(settings.warmup_iterations) if frozen else 1)

    def _drawn(self, epoch: int, labels: Tensor, iterations: int, row: Row) -> Iterator[Tensor]:
        """The sampler's batches of image indices (B,)."""
        batch, labeler, made = self.config.batch, self.components.labeler, self.labels
        assert made is not None, "labels are made before batches are drawn"
        draw = generator(self.config.seed, self.name, epoch, "sampler")
        sizes = int(batch.identities), int(batch.images)
        try:
            sampler = SAMPLERS[str(batch.sampler)](labels, self.data.cameras, *sizes, draw)
        except TrainingError as error:
            raise TrainingError(
                f"{self.name}, epoch {epoch}: {error.cause} ({labeler.describe()}; "
                f"{row['outliers']} outliers.)",
                f"{labeler.hint(made)} Or lower batch.identities. {_KEPT}",
            ) from error
        return sampler.batches(iterations)

    @torch.no_grad()
    def start_epoch(
        self, epoch: int, labels: Tensor, features: Tensor, relabeling: Tensor | None = None
    ) -> None:
        """Give all components the epoch's labels (N,) and features (N, V, D).

        `relabeling`: those for the distiller, if they are others.
        """
        objective, distiller = self.components.objective, self.components.distiller
        cameras = None
        if objective.uses_cameras and self.data.cameras is not None:
            cameras = self.data.cameras.to(self.device)
        objective.start_epoch(features, labels, cameras)
        if distiller is not None:
            distiller.relabel(features if relabeling is None else relabeling, labels, cameras)
        self.step.start_epoch()
        self.trained.train()
        if distiller is not None:
            distiller.start_epoch(epoch)

    def train_step(self, batch: Batch, frozen: bool) -> Tensor:
        """One optimizer step; returns the loss, detached. frozen: of a warm-up epoch."""
        return self.step(batch, self.optimizer, frozen)

    def state_dict(self) -> dict[str, Any]:
        """All that the next epoch depends on, as tensors and numbers."""
        labels = None
        if self.labels is not None:
            counts = {k: int(self.labels.stats.get(k, getattr(self.labels, k))) for k in COUNTS}
            labels = {"labels": self.labels.labels, **counts}
        return {
            "next_epoch": self.next_epoch,
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "labeler": self.components.labeler.state_dict(),
            "labels": labels,
            "timings": dict(self.timings),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state_dict`."""
        self.trained.load_state_dict(state["trained"])
        load_state(self.optimizer, state["optimizer"])
        if state["scaler"]:  # empty unless the precision is fp16
            self.scaler.load_state_dict(state["scaler"])
        self.components.labeler.load_state_dict(state["labeler"])
        if state["labels"] is not None:
            kept = dict(state["labels"])
            self.labels = PseudoLabels(kept.pop("labels"), kept)
        self.next_epoch = int(state["next_epoch"])
        self.timings.update(state["timings"])
