"""The parts of one training stage that are timed: steps, extraction, the label step, ranking.

All stages work on the same images; they are also the labeled source of methods that need one.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.nn import functional as F

from harness.benchmarks.features import synthetic_features
from harness.benchmarks.harness_implementation import make_network, make_trainer, training_steps
from harness.benchmarks.timing import Candidate, Round, built_when_run
from harness.core.interfaces import Backbone, LabelledSet
from harness.core.seeds import generator
from harness.core.throughput import synchronized_time
from harness.data.samplers import SAMPLERS
from harness.evaluation.evaluator import Evaluator
from harness.experiment.protocol import protocol_card
from harness.experiment.stages import Stage, backbone_name
from harness.results.measured_costs import cost_key
from harness.training import extraction
from harness.training.trainer import Trainer

PARTS = ("train", "extract", "labels", "rank")
#: parts that take a few percent of a schedule are timed in every fifth round only; of these rounds
#: every second one has the reverse order
EVERY = {"labels": 5, "rank": 5}
#: the stage of a method that does not train
UNTRAINED = "initial"


@dataclass(frozen=True)
class Speeds:
    """Seconds in one round: of a step, of extraction per image, of the label step, of the ranking
    of a test, and of the start of an epoch (memories, classifiers).
    """

    step: float
    image: float
    labels: float
    rank: float
    start: float


@dataclass(frozen=True)
class Amounts:
    """How much of each part a stage's schedule has.

    extracted: images, those of the tests aside. labelings: calls of the labeler.
    """

    epochs: int = 0
    steps: int = 0
    extracted: int = 0
    labelings: int = 0
    tests: int = 1

    def seconds(self, speeds: Speeds, test_images: int) -> dict[str, float]:
        """Seconds of the whole schedule by phase, as phases are named in records."""
        return {
            "extract": self.extracted * speeds.image,
            "label": self.labelings * speeds.labels,
            "train": self.epochs * speeds.start + self.steps * speeds.step,
            "test": self.tests * (test_images * speeds.image + speeds.rank),
        }


class Features:
    """The decoded training images of a data set, and features like those of a network of them."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.decoded = evaluator.unlabelled(uses_cameras=False).images
        train, self.device = evaluator.data.train, evaluator.device
        identities = len(np.unique(train.identities[train.identities >= 0]))
        self.identities = max(2, identities or len(self.decoded) // 16)
        self.cameras = 6 if train.cameras is None else len(np.unique(train.cameras))
        self._made: dict[tuple[int, int], Tensor] = {}

    def as_source(self, cameras: Tensor | None) -> LabelledSet:
        """The same images as a labeled source, with made-up identities."""
        count = len(self.decoded)
        identities = torch.arange(count) * min(self.identities, count) // count
        return LabelledSet(self.decoded, cameras, identities=identities)

    def features(self, backbone: Backbone) -> Tensor:
        """Synthetic features (N, V, D) of a half-trained network, on the device."""
        shape = len(backbone.views), backbone.dim
        if shape not in self._made:
            count = [len(self.decoded)]
            (drawn,) = synthetic_features(count, self.identities, self.cameras, *shape)
            self._made[shape] = drawn.features.to(self.device)
        return self._made[shape]


@dataclass(eq=False)
class StageCosts:
    """A stage of a method, or a network that is only tested, and its candidates.

    seconds: how long a round of one part lasts at least. facts: what else the result says of it.
    """

    method: str
    config: DictConfig
    stage: Stage | None
    evaluator: Evaluator
    uses_cameras: bool
    seconds: float
    images: Features
    candidates: dict[str, Candidate] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = UNTRAINED if self.stage is None else self.stage.name
        self.device, self.precision = self.evaluator.device, self.evaluator.precision
        parts: dict[str, Callable[[], Callable[[], Round]]] = {
            "train": self._train, "extract": self._extract,
            "labels": self._labels, "rank": self._rank,
        }  # fmt: skip
        for part in PARTS if self.stage is not None else ("extract", "rank"):
            if part != "rank" or self.evaluator.evaluates:
                name = " ".join(dict.fromkeys([self.method, self.name, part]))
                self.candidates[part] = Candidate(
                    name, built_when_run(parts[part]), every=EVERY.get(part, 1)
                )

    @functools.cached_property
    def trainer(self) -> Trainer:
        assert self.stage is not None
        data = self.evaluator.unlabelled(self.uses_cameras)
        source = self.images.as_source(data.cameras)
        return make_trainer(self.stage, data, self.device, self.precision, source)

    @functools.cached_property
    def backbone(self) -> Backbone:
        """The network, without a trainer where there is nothing to train."""
        if self.stage is not None:
            return self.trainer.components.backbone
        return make_network(self.config, self.device)

    def rehearse(self) -> None:
        """Compute a step that is not measured: the first one also loads libraries and kernels."""
        once = dataclasses.replace(self, seconds=1e-9, candidates={}, facts={})
        once.candidates["train"].run()

    def speeds(self, number: int) -> Speeds:
        """The speeds of a round."""
        rounds = {part: each.rounds[number] for part, each in self.candidates.items()}
        train, labels, rank = (rounds.get(part) for part in ("train", "labels", "rank"))
        extract = rounds["extract"]
        return Speeds(
            step=train.seconds / train.images * self.trainer.batch_size if train else 0.0,
            image=extract.seconds / extract.images,
            labels=labels.details["once"] if labels else 0.0,
            rank=rank.details["once"] if rank else 0.0,
            start=train.details["start"] if train else 0.0,
        )

    def in_round(self, number: int) -> dict[str, float]:
        """The numbers of a round: seconds, and hours of the schedule."""
        speeds, amounts, phases = self.speeds(number), self.amounts, self.phases(number)
        tests = phases["test"]
        epochs = sum(phases.values()) - tests
        return {
            "step_seconds": speeds.step,
            "extract_seconds": speeds.image * len(self.images.decoded),
            "label_seconds": speeds.labels,
            "test_seconds": tests / amounts.tests if amounts.tests else 0.0,
            "epoch_seconds": epochs / amounts.epochs if amounts.epochs else 0.0,
            "hours": (epochs + tests) / 3600,
        }

    def phases(self, number: int) -> dict[str, float]:
        """Seconds of the whole schedule by phase, at the speeds of a round."""
        data = self.evaluator.data
        test_images = len(data.query.images) + len(data.gallery.images)
        return self.amounts.seconds(self.speeds(number), test_images)

    @functools.cached_property
    def amounts(self) -> Amounts:
        """The schedule's amounts; known once training steps were computed."""
        if self.stage is None:
            return Amounts(tests=int(self.evaluator.evaluates))
        trainer = self.trainer
        count, epochs = len(trainer.data), range(trainer.first_epoch, trainer.last_epoch + 1)
        labels = torch.zeros(count, dtype=torch.int64)  # iterations=auto: no outliers
        networks = self._networks_first + sum(len(trainer.extracted_by(e)) for e in epochs[1:])
        networks += trainer.source is not None  # once, for the centers of its classes
        return Amounts(
            epochs=len(epochs),
            steps=sum(trainer.iterations(labels, epoch < 0) for epoch in epochs),
            extracted=networks * count,
            labelings=sum(trainer.labelings(epoch) for epoch in epochs),
            tests=len(trainer.tested) if self.evaluator.evaluates else 0,
        )

    def _train(self) -> Callable[[], Round]:
        """Training steps in the middle of the schedule."""
        trainer, batch = self.trainer, self.trainer.config.batch
        self._networks_first = len(trainer.extracted_by(trainer.first_epoch))
        features = self.images.features(trainer.components.backbone)
        labels = torch.arange(len(features)) // int(batch.images)
        on_device, cameras = labels.to(self.device), trainer.data.cameras
        if trainer.source is not None:
            own = trainer.source.identities.to(self.device)
            with torch.no_grad():
                trainer.components.objective.start_source(features, own)
        sampler = SAMPLERS[str(batch.sampler)](
            labels, cameras, int(batch.identities), int(batch.images), generator(0, "bench")
        )
        epoch = max(0, (trainer.last_epoch + 1) // 2)
        for name, value in trainer.trained.named_buffers():
            if name.rpartition(".")[2] == "epochs_begun":  # a loss may begin with fewer terms
                value.fill_(epoch - trainer.first_epoch)

        def compute(steps: int) -> Round:
            began = synchronized_time(self.device)
            trainer.start_epoch(epoch, on_device, features)
            start = synchronized_time(self.device) - began
            drawn = sampler.batches(steps + 1)
            seconds, waiting = training_steps(trainer, steps, drawn, on_device, epoch)
            return Round(steps * trainer.batch_size, seconds, {"start": start, "waiting": waiting})

        with counted_images(trainer.step.networks) as passed:
            first = compute(1)
        if str(trainer.config.train.compile) != "off":
            compute(1)  # compiles again, without the hooks that counted
            first = compute(1)
        trained = sum(
            p.numel() for group in trainer.optimizer.param_groups for p in group["params"]
        )
        passes = round(passed[0] / trainer.batch_size, 3)
        self.facts = {"forward_passes": passes, "trained_parameters": trained}
        steps = self._enough(first, compute(1))
        return lambda: compute(steps)

    def _extract(self) -> Callable[[], Round]:
        images, device = self.images.decoded, self.device

        def compute(count: int) -> Round:
            passes, rest = divmod(count, len(images))
            began = synchronized_time(device)
            for part in [len(images)] * passes + [rest] * bool(rest):
                extraction.extract(self.backbone, images[:part], device, self.precision)
            return Round(count, synchronized_time(device) - began)

        first = min(extraction.BATCH, len(images))
        batches = self._enough(compute(first), compute(first))
        return lambda: compute(batches * first)

    def _labels(self) -> Callable[[], Round]:
        """The label step of all training images, from the same state in each round."""
        trainer, labeler = self.trainer, self.trainer.components.labeler
        features = self.images.features(trainer.components.backbone)
        cameras = trainer.data.cameras if labeler.uses_cameras else None
        for _ in range(labeler.min_calls - 1):
            labeler.label(features, cameras)
        state = labeler.state_dict()

        def label() -> None:
            labeler.load_state_dict(state)
            labeler.label(features, cameras)

        label()  # compiles the kernels
        return lambda: self._repeated(label, len(features))

    def _rank(self) -> Callable[[], Round]:
        """The ranking of all queries; extraction of the test images is counted apart."""
        data, draw = self.evaluator.data, torch.Generator().manual_seed(0)
        query, gallery = (
            F.normalize(torch.randn(len(part.images), self.backbone.dim, generator=draw), dim=-1)
            for part in (data.query, data.gallery)
        )
        query, gallery = query.to(self.device), gallery.to(self.device)
        self.evaluator.score(query, gallery)
        return lambda: self._repeated(lambda: self.evaluator.score(query, gallery), len(query))

    def _enough(self, *tries: Round) -> int:
        """How often to repeat work that fills a round: at its fastest, as the first try, and one
        beside other work, take longer than usual.
        """
        return math.ceil(self.seconds / min(each.seconds for each in tries))

    def _repeated(self, call: Callable[[], object], images: int) -> Round:
        """A round of calls with that many images each; `once` is the time of one call."""
        began, calls, passed = synchronized_time(self.device), 0, 0.0
        while passed < self.seconds:
            call()
            calls += 1
            passed = synchronized_time(self.device) - began
        return Round(calls * images, passed, {"once": passed / calls})

    @property
    def in_tables(self) -> dict[str, str]:
        """What identifies the method in tables of runs: its name, and its protocol card."""
        card = protocol_card(self.config, self.precision, defaultdict(str))
        return {"name": str(self.config.method.name), "card": cost_key(card)}

    def describe(self) -> dict[str, Any]:
        """Settings that a result depends on."""
        config = self.config if self.stage is None else self.stage.config
        backbone = config.backbone
        return {
            "dataset": self.evaluator.data.name,
            "protocol": str(config.protocol.name),
            "backbone": backbone_name(backbone),
            "input": f"{config.images.height}x{config.images.width}",
            "batch": int(config.batch.identities) * int(config.batch.images),
            "samples_per_bn": int(config.batch.samples_per_bn),
            "views": list(backbone.get("views") or ["global"]),
            "precision": self.precision,
            "compile": str(config.train.compile),
            "test_every": int(config.evaluation.every),
            "train": len(self.evaluator.data.train.images),
            "query": len(self.evaluator.data.query.images),
            "gallery": len(self.evaluator.data.gallery.images),
        }


@contextmanager
def counted_images(networks: Sequence[Backbone]) -> Iterator[list[int]]:
    """The number of images that networks embed inside the block, as the list's only entry."""
    passed = [0]

    def count(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        passed[0] += len(inputs[0])

    handles = [network.register_forward_pre_hook(count) for network in networks]
    try:
        yield passed
    finally:
        for handle in handles:
            handle.remove()
